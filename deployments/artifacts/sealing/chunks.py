"""One sealed file: C2SP's chunked encryption with AES-256-GCM, as the library cryptography has it (Cobblestone-256).

Each chunk knows its place and whether it is the last one, and the whole its key and its context: what was cut, reordered or taken
from another file does not open.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import IO

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from deployments.artifacts.manifest import Seal

BLOCK_BYTES = 1 << 20


def context_of(seal: Seal, model: str, path: str) -> bytes:
    """What one file of one version is sealed as."""
    return "\0".join(("headrace sealed version 1", model, seal.id, path)).encode()


def write_sealed(source: IO[bytes], into: IO[bytes], data_key: bytes, context: bytes) -> None:
    """Encrypts all of `source`. A data key takes any number of files: each has a salt of its own. Raises OSError."""
    encryptor = Cobblestone256Encryptor(data_key, context)
    while block := source.read(BLOCK_BYTES):
        into.write(encryptor.update(block))
    into.write(encryptor.finalize())


def read_sealed(source: IO[bytes], data_key: bytes, context: bytes, saw: Callable[[bytes], object]) -> bytes | None:
    """What was sealed; None where it does not open with this key as this file. `saw` is told every block of `source`.

    Holds what was sealed in memory once, and of the source a block. Raises OSError.
    """
    decryptor = Cobblestone256Decryptor(data_key, context)
    opened: io.BytesIO | None = io.BytesIO()
    while block := source.read(BLOCK_BYTES):
        saw(block)
        opened = _added(opened, partial(decryptor.update, block))
    opened = _added(opened, decryptor.finalize)
    return None if opened is None else opened.getvalue()


def _added(opened: io.BytesIO | None, decrypt: Callable[[], bytes]) -> io.BytesIO | None:
    """With what comes next; None from the first chunk on that does not open."""
    if opened is not None:
        try:
            opened.write(decrypt())
        except InvalidTag:
            return None
    return opened
