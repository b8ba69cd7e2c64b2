"""One sealed file: C2SP's chunked encryption with AES-256-GCM, as the library cryptography has it (Cobblestone-256).

Each chunk knows its place and whether it is the last one, and the whole its key and its context: what was cut, reordered or taken
from another file does not open.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from deployments.artifacts.manifest import Seal

BLOCK_BYTES, CHUNK_BYTES = 1 << 16, 1 << 14
_HEAD_BYTES, _TAG_BYTES = 56, 16  # of a file, salt and commitment; of each chunk


def context_of(seal: Seal, model: str, path: str) -> bytes:
    """What one file of one version is sealed as."""
    return "\0".join(("headrace sealed version 1", model, seal.id, path)).encode()


def write_sealed(source: IO[bytes], into: IO[bytes], data_key: bytes, context: bytes) -> None:
    """Encrypts all of `source`. A data key takes any number of files: each has a salt of its own. Raises OSError."""
    encryptor = Cobblestone256Encryptor(data_key, context)
    while block := source.read(BLOCK_BYTES):
        into.write(encryptor.update(block))
    into.write(encryptor.finalize())


def plain_bytes(sealed_bytes: int) -> int:
    """How many bytes a sealed file of so many holds. Pure."""
    body = max(_TAG_BYTES, sealed_bytes - _HEAD_BYTES)
    return body - _TAG_BYTES * (body // (CHUNK_BYTES + _TAG_BYTES) + 1)  # the last chunk is never full


def open_sealed(
    source: io.BufferedIOBase,
    data_key: bytes,
    context: bytes,
    *,
    saw: Callable[[memoryview], object],
    give: Callable[[memoryview], object],
) -> bool:
    """Hands what was sealed to `give`, block by block, and every block of `source` to `saw`: whether all of it opened, with this
    key as this file. Before that is told nothing of it may be used: it may be cut.

    The blocks are memory that is used again. Raises OSError.
    """
    decryptor, whole = Cobblestone256Decryptor(data_key, context), True
    # The same memory for every block: new memory costs more than decrypting.
    taken, plain = memoryview(bytearray(BLOCK_BYTES)), memoryview(bytearray(BLOCK_BYTES + CHUNK_BYTES))
    while count := source.readinto(taken):
        saw(taken[:count])
        if whole:
            try:
                give(plain[: decryptor.update_into(taken[:count], plain)])
            except InvalidTag:
                whole = False
    if whole:
        try:
            give(memoryview(decryptor.finalize()))
        except InvalidTag:
            whole = False
    return whole
