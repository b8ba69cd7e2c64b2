"""A holder of one key-encryption key: it wraps data keys and unwraps them, and never tells the key itself."""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from cluster.section import Base64Bytes

DATA_KEY_BYTES = 32


class WrapAlgorithm(StrEnum):
    """How a data key is wrapped: by whom it can be unwrapped."""

    HPKE = "hpke-x25519-hkdf-sha256-aes-256-gcm"
    VAULT = "vault-transit"
    AWS_KMS = "aws-kms"


class WrappedKey(BaseModel):
    """A data key as it may be kept anywhere. `key` names the key-encryption key: a hint which one to try, and never proof.

    As JSON, `wrapped` is base64.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    key: str
    algorithm: WrapAlgorithm
    wrapped: Base64Bytes


class KeyHolder(Protocol):
    """Holds one key-encryption key. May be called from several threads; a remote one blocks for as long as its service takes."""

    @property
    def key_id(self) -> str:
        """What wraps of it say in `WrappedKey.key`."""

    @property
    def where(self) -> str:
        """Where the key is, as an error or a list may tell it: a file, a variable, an address; nothing of the key."""

    @property
    def opens(self) -> bool:
        """Whether it has what unwrapping takes; one that has the public half alone only wraps."""

    def wrap(self, data_key: bytes, info: bytes) -> WrappedKey:
        """Wraps a data key of 1 to 1024 bytes. `info` says what for: unwrapping with another one fails.

        Raises Unreachable where its service is away, Forbidden where that refuses.
        """

    def unwrap(self, wrapped: WrappedKey, info: bytes) -> bytes:
        """The data key. Raises Forbidden where this key did not wrap it so, or must not unwrap it; Unreachable."""


def new_data_key() -> bytes:
    """32 random bytes: for one purpose, once."""
    return secrets.token_bytes(DATA_KEY_BYTES)
