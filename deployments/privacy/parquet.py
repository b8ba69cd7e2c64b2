"""Parquet's own encryption of what we write: footer, columns and statistics, AES-256-GCM, by keys that are wrapped for one
key-encryption key, which readers find in HEADRACE_KEYS. All that we read is opened here, encrypted or not.

pyarrow makes a key a file and wraps those with another, which alone is wrapped by the key's holder, and kept for ten minutes: so
a key in Vault or KMS is asked now and then, and not for each file.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
from pydantic import ValidationError

from cluster.errors import Forbidden, HeadraceError, NotFound, Unreachable
from deployments.keys.port import WrappedKey
from deployments.keys.references import holder_of
from deployments.keys.ring import VARIABLE, KeyRing, keys_folder

INFO = b"headrace parquet"  # what these wraps are for: one of another purpose opens nothing here
KEPT = timedelta(minutes=10)


class LockedFile(Forbidden):
    """A Parquet file is encrypted, and this process has not what opens it."""


class _Keys(pe.KmsClient):  # type: ignore[misc]
    """Wraps by the key that a document names, unwraps by whichever of this process's keys did."""

    def __init__(self, _: pe.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        """Called by pyarrow. Raises as `holder_of` and `KeyHolder.wrap` do."""
        return holder_of(master_key_identifier, folder=keys_folder()).wrap(key_bytes, INFO).model_dump_json()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        """Called by pyarrow. Raises Forbidden where no key here opens it, Unreachable where one that may is away, and as
        `KeyRing.from_environment`."""
        try:
            wrapped = WrappedKey.model_validate_json(wrapped_key)
        except ValidationError:
            raise Forbidden("its key was not wrapped by Headrace", remedy="read it with what wrote it") from None
        try:
            return KeyRing.from_environment().unwrap([wrapped], INFO, where="")
        except Forbidden as error:  # by the name that the document has for it, too
            called = wrapped.key if master_key_identifier == wrapped.key else f"{master_key_identifier} ({wrapped.key})"
            remedy = f"it was encrypted for {called}: name the key that opens it in {VARIABLE}; for nodes, before `headrace up`"
            raise Forbidden(error.what, remedy=remedy) from None


def encryption_of(key: str) -> Any:
    """What one file is written with, for `encryption_properties`; None where `key`, a reference, is empty.

    Raises NotFound, BadInput or Conflict where there is no such key, Unreachable where its service is away.
    """
    if not key:
        return None
    how = pe.EncryptionConfiguration(footer_key=key, uniform_encryption=True, data_key_length_bits=256, cache_lifetime=KEPT)
    return _factory().file_encryption_properties(pe.KmsConnectionConfig(), how)


def check_key(key: str, place: str) -> None:
    """Raises what `encryption_of` does, before anything is written; `place` says whose keys were looked for."""
    try:
        encryption_of(key)
    except NotFound as error:
        remedy = f"{error.remedy}; nodes have {VARIABLE} as `headrace up` had it"
        raise NotFound(f"{error.what}, {place}", where=error.where, remedy=remedy) from error


def open_parquet(source: Path | pa.NativeFile, where: str, **how: Any) -> pq.ParquetFile:
    """A file of anybody's: one that is encrypted by the keys of HEADRACE_KEYS, others as ever. `where` names it in errors,
    `how` are pyarrow's own options.

    Raises as pyarrow does, LockedFile where no key of this process opens it, Unreachable where the service that has one is away.
    """
    with opening(where):
        return pq.ParquetFile(source, decryption_properties=decryption(), **how)


@contextmanager
def opening(where: str) -> Iterator[None]:
    """Tells which file it was of which the key is not there: pyarrow asks for keys, and does not say of what. Raises as
    `open_parquet`."""
    try:
        yield
    except HeadraceError as error:
        kind = Unreachable if isinstance(error, Unreachable) else LockedFile
        key = f"{error.where}: " if error.where else ""
        raise kind(f"it is encrypted, and {key}{error.what}", where=where, remedy=error.remedy) from error


def decryption() -> Any:
    """What one file is read with, for `decryption_properties`. Nothing is asked before a file needs it; then pyarrow raises what
    `opening` takes."""
    return _factory().file_decryption_properties(pe.KmsConnectionConfig(), pe.DecryptionConfiguration(cache_lifetime=KEPT))


@functools.cache
def _factory() -> pe.CryptoFactory:
    """One a process: it keeps keys that were unwrapped."""
    return pe.CryptoFactory(_Keys)
