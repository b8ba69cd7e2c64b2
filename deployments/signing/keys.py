"""The keys that sign versions: elliptic curves, as OpenSSF model signing takes them. Known by the SHA-256 of the public key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from cluster.errors import BadInput

# By the curve's size in bits; Sigstore pairs each with one hash.
_HASHES: dict[int, type[hashes.HashAlgorithm]] = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}
# What reading a certificate raises besides ValueError: by a curve or a version that cryptography does not know.
OF_CERTIFICATES = (UnsupportedAlgorithm, x509.InvalidVersion)
SHOWN = 16  # digits of a key's id where people read it
CURVES = "make one with `headrace signing new NAME`, or take an elliptic curve P-256, P-384 or P-521 in PEM"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, and what people call it. `id` is the SHA-256 of its PEM in hex: Sigstore's hint, never a proof."""

    name: str
    id: str
    public: ec.EllipticCurvePublicKey = field(repr=False)

    def signed(self, signature: bytes, content: bytes) -> bool:
        """Whether its holder has signed the content."""
        try:
            self.public.verify(signature, content, ec.ECDSA(_HASHES[self.public.curve.key_size]()))
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.name} ({self.id[:SHOWN]})"


@dataclass(frozen=True, slots=True)
class PrivateSigningKey:
    """A private key. It signs; nothing shows it."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def id(self) -> str:
        """As `TrustedKey.id`."""
        return key_hint(self.private.public_key())

    def sign(self, content: bytes) -> bytes:
        """The signature of the content, in DER."""
        return self.private.sign(content, ec.ECDSA(_HASHES[self.private.curve.key_size]()))


def new_signing_key() -> tuple[bytes, bytes]:
    """A new key of the curve P-256: the private one and the public one, each in PEM."""
    private = ec.generate_private_key(ec.SECP256R1())
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), public_pem(private.public_key())


def public_pem(public: ec.EllipticCurvePublicKey) -> bytes:
    """The public key in PEM."""
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_hint(public: ec.EllipticCurvePublicKey) -> str:
    """The id of a public key."""
    return hashlib.sha256(public_pem(public)).hexdigest()


def signing_key(pem: bytes, where: str) -> PrivateSigningKey:
    """The private key in a PEM. Raises BadInput where it is none that may sign versions."""
    try:
        private = load_pem_private_key(pem, None)
    except TypeError as error:
        raise BadInput("the key is encrypted", where=where, remedy="decrypt it into a file that only you may read") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInput("this is no private key", where=where, remedy=CURVES) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.key_size not in _HASHES:
        raise BadInput("a key of this kind can't sign versions", where=where, remedy=CURVES)
    return PrivateSigningKey(private)


def trusted_key(pem: bytes, name: str, where: str) -> TrustedKey:
    """The public key in a PEM, alone or in a certificate. Raises BadInput where it is none that may sign versions.

    Of a certificate its key counts, and nothing else: neither its authority nor its dates.
    """
    try:
        public = x509.load_pem_x509_certificate(pem).public_key() if b"BEGIN CERT" in pem else load_pem_public_key(pem)
    except (ValueError, *OF_CERTIFICATES) as error:
        raise BadInput("this is no public key", where=where, remedy="name a PEM with a public key or a certificate") from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.key_size not in _HASHES:
        raise BadInput("a key of this kind can't sign versions", where=where, remedy=CURVES)
    return TrustedKey(name, key_hint(public), public)
