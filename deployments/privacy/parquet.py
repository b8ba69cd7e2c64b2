"""Parquet's own encryption of what we write: footer, columns and statistics, AES-256-GCM, by keys that are wrapped for one
key-encryption key. Any reader of Parquet with that key reads the files; ours finds it in HEADRACE_KEYS.

pyarrow makes a key a file and wraps those with another, which alone is wrapped by the key's holder, and kept for ten minutes: so
a key in Vault or KMS is asked now and then, and not for each file.
"""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

import pyarrow.parquet.encryption as pe
from pydantic import ValidationError

from cluster.errors import Forbidden
from deployments.keys.port import WrappedKey
from deployments.keys.references import holder_of
from deployments.keys.ring import KeyRing, keys_folder

INFO = b"headrace parquet"  # what these wraps are for: one of another purpose opens nothing here
KEPT = timedelta(minutes=10)


class _Keys(pe.KmsClient):  # type: ignore[misc]
    """Wraps by the key that a document names, unwraps by whichever of this process's keys did."""

    def __init__(self, _: pe.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        """Called by pyarrow. Raises as `holder_of` and `KeyHolder.wrap` do."""
        return holder_of(master_key_identifier, folder=keys_folder()).wrap(key_bytes, INFO).model_dump_json()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        """Called by pyarrow. Raises Forbidden where no key here opens it, Unreachable where one that may is away."""
        try:
            wrapped = WrappedKey.model_validate_json(wrapped_key)
        except ValidationError:
            what, remedy = "its key was not wrapped by Headrace", "read it with what wrote it"
            raise Forbidden(what, where=f"a Parquet file of key {master_key_identifier}", remedy=remedy) from None
        return KeyRing.from_environment().unwrap([wrapped], INFO, where=f"a Parquet file of key {master_key_identifier}")


def encryption_of(key: str) -> Any:
    """What one file is written with, for `encryption_properties`; None where `key`, a reference, is empty.

    Raises NotFound, BadInput or Conflict where there is no such key, Unreachable where its service is away.
    """
    if not key:
        return None
    how = pe.EncryptionConfiguration(footer_key=key, uniform_encryption=True, data_key_length_bits=256, cache_lifetime=KEPT)
    return _factory().file_encryption_properties(pe.KmsConnectionConfig(), how)


def decryption() -> Any:
    """What one file is read with, for `decryption_properties`; files that are not encrypted are read as ever. Nothing is asked
    before a file needs it."""
    return _factory().file_decryption_properties(pe.KmsConnectionConfig(), pe.DecryptionConfiguration(cache_lifetime=KEPT))


@functools.cache
def _factory() -> pe.CryptoFactory:
    """One a process: it keeps keys that were unwrapped."""
    return pe.CryptoFactory(_Keys)
