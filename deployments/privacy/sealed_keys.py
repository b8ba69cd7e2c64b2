"""Subject keys as the controller keeps them: sealed, so that it never holds what opens a field."""

from __future__ import annotations

import secrets
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict

from cluster.errors import BadArtifact, Forbidden, NotFound
from deployments.keys.port import Base64Bytes, KeyHolder, WrappedKey, new_data_key
from deployments.keys.ring import KeyRing
from deployments.privacy.subject_keys import SubjectKeys

_NONCE_BYTES = 12


class SealedSubjectKeys(BaseModel):
    """The document that the controller keeps: a data key, wrapped, and what it seals."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    wrapped: WrappedKey
    sealed: Base64Bytes


def seal_subject_keys(found: SubjectKeys, name: str, number: int, holder: KeyHolder) -> str:
    """As text, under a data key of its own: what an earlier number is sealed with opens no later one. Raises as `wrap` does."""
    data_key, nonce = new_data_key(), secrets.token_bytes(_NONCE_BYTES)
    sealed = nonce + AESGCM(data_key).encrypt(nonce, found.to_bytes(), _about(name, number))
    return SealedSubjectKeys(wrapped=holder.wrap(data_key, _about(name, number)), sealed=sealed).model_dump_json()


def open_subject_keys(text: str, name: str, number: int, ring: KeyRing) -> tuple[SubjectKeys, KeyHolder]:
    """The keys, and who has wrapped them. Raises NotFound where there are none (number 0), Forbidden where no key here opens
    them, Unreachable where one that may is away, BadArtifact where they were changed."""
    where = f"subject keys {name}"
    if not number:
        raise NotFound("there are none", where=where, remedy="a stream with `encrypt` makes them as it starts")
    try:
        document = SealedSubjectKeys.model_validate_json(text)
        data_key = ring.unwrap([document.wrapped], _about(name, number), where=where)
        data = AESGCM(data_key).decrypt(document.sealed[:_NONCE_BYTES], document.sealed[_NONCE_BYTES:], _about(name, number))
        found = SubjectKeys.from_bytes(data)
    except (ValueError, InvalidTag, struct.error):  # ValueError: of pydantic, and of a key or nonce that is none
        raise BadArtifact("they were changed, or are of another version", where=where, remedy="restore the store") from None
    holder = next((one for one in ring.holders if one.key_id == document.wrapped.key), None)
    if holder is None:
        raise Forbidden("the key that opens them is not here", where=where, remedy="name it in HEADRACE_KEYS")
    return found, holder


def _about(name: str, number: int) -> bytes:
    return f"headrace subject keys\0{name}\0{number}".encode()
