"""A statement and its signature in one file: DSSE in a Sigstore bundle, as OpenSSF model signing writes and reads it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from deployments.signing.keys import OF_CERTIFICATES, PrivateSigningKey, TrustedKey, key_hint

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


class _Part(BaseModel):
    # Unknown fields pass: who wrote the file may know more than this release.
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, hide_input_in_errors=True)


class _Certificate(_Part):
    raw_bytes: Base64Bytes


class _Chain(_Part):
    certificates: tuple[_Certificate, ...] = Field(min_length=1)


class _PublicKey(_Part):
    hint: str | None = None


class _Material(_Part):
    public_key: _PublicKey | None = None
    x509_certificate_chain: _Chain | None = None
    certificate: _Certificate | None = None


class _Signature(_Part):
    sig: Base64Bytes


class _Envelope(_Part):
    payload: Base64Bytes
    payload_type: str
    signatures: tuple[_Signature, ...] = Field(min_length=1, max_length=1)


class _Bundle(_Part):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.media_type != BUNDLE_TYPE or self.dsse_envelope.payload_type != PAYLOAD_TYPE:
            raise ValueError("its types are unknown")
        return self


@dataclass(frozen=True, slots=True)
class SignedBundle:
    """A file as it was read: nothing of it is believed yet. `hint` is the id of the key that it names, empty where it names none;
    `payload` the very bytes that are signed."""

    payload: bytes
    signature: bytes
    hint: str

    def signer(self, trusted: Iterable[TrustedKey]) -> TrustedKey | None:
        """Which of the keys has signed it; None where none has. A hint saves trying the others, and proves nothing."""
        content = _preauthenticated(self.payload)
        named = [key for key in trusted if not self.hint or key.id == self.hint]
        return next((key for key in named if key.signed(self.signature, content)), None)


def bundled(statement: Mapping[str, Any], key: PrivateSigningKey) -> bytes:
    """The file with a statement that the key has signed."""
    payload = orjson.dumps(statement)
    document = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key.id}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _text(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": _text(key.sign(_preauthenticated(payload))), "keyid": ""}],
        },
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def parse_bundle(content: bytes) -> SignedBundle | None:
    """What is in such a file; None where it is none. Pure."""
    try:
        found = _Bundle.model_validate_json(content)
        material = found.verification_material
        leaf = material.certificate or (material.x509_certificate_chain and material.x509_certificate_chain.certificates[0])
        hint = _hint_of(leaf.raw_bytes) if leaf else (material.public_key and material.public_key.hint) or ""
    except (ValidationError, ValueError, *OF_CERTIFICATES):
        return None
    return SignedBundle(found.dsse_envelope.payload, found.dsse_envelope.signatures[0].sig, hint)


def _hint_of(certificate: bytes) -> str:
    public = x509.load_der_x509_certificate(certificate).public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ValueError("not a key of ours")
    return key_hint(public)


def _preauthenticated(payload: bytes) -> bytes:
    """What DSSE has signed of a payload: its type and lengths too."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
