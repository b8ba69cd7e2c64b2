"""The body of one HTTP/1.1 request, from the pieces in which it comes."""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from cluster.errors import BadInput

LINE_MOST_BYTES = 4096  # of a chunk's size with its extensions, and of a trailer
PIECE_LEAST_BYTES = 16 << 10
TRAILERS_MOST_BYTES = 16 << 10
_CRLF = b"\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_SIZE_MOST_DIGITS = 15  # fits into 64 bits
_HEX = frozenset(b"0123456789abcdefABCDEF")


Pieces = list[bytes | bytearray | memoryview]


class Body(Protocol):
    """A body that is being read. What has come lies in `pieces`, and is `size_bytes` long; a dropped one keeps none."""

    pieces: Pieces
    size_bytes: int
    dropped: bool

    def feed(self, data: bytes) -> bytes | None:
        """Takes what has come. Returns what follows the body, None while it is not whole. Raises BadInput: then where it ends
        can't be told."""


class SizedBody:
    """One whose length was told."""

    __slots__ = ("_missing_bytes", "dropped", "pieces", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self._missing_bytes = size_bytes
        self.pieces: Pieces = []
        self.size_bytes = 0
        self.dropped = False

    def feed(self, data: bytes) -> bytes | None:
        """See Body."""
        piece = data[: self._missing_bytes]
        self._missing_bytes -= len(piece)
        self.size_bytes += len(piece)
        if not self.dropped:
            add_piece(self.pieces, piece)
        return data[len(piece) :] if self._missing_bytes == 0 else None


def add_piece(pieces: Pieces, piece: bytes) -> None:
    """Small ones are put together: as an object each they would take forty times what is counted."""
    if len(piece) >= PIECE_LEAST_BYTES:
        pieces.append(piece)
    elif pieces and isinstance(pieces[-1], bytearray) and len(pieces[-1]) < PIECE_LEAST_BYTES:
        pieces[-1] += piece
    elif piece:
        pieces.append(bytearray(piece))


class _At(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()


class ChunkedBody:
    """One in chunks. Extensions and trailers are passed over."""

    __slots__ = ("_at", "_line", "_missing_bytes", "_trailers_bytes", "dropped", "pieces", "size_bytes")

    def __init__(self) -> None:
        self._at = _At.SIZE
        self._line = b""  # begun, and not whole
        self._missing_bytes = 0  # of the chunk
        self._trailers_bytes = 0
        self.pieces: Pieces = []
        self.size_bytes = 0
        self.dropped = False

    def feed(self, data: bytes) -> bytes | None:
        """See Body."""
        at = 0
        while at < len(data):
            if self._at is _At.DATA:
                piece = data[at : at + self._missing_bytes]
                at += len(piece)
                self._missing_bytes -= len(piece)
                self.size_bytes += len(piece)
                if not self.dropped:
                    add_piece(self.pieces, piece)
                if self._missing_bytes == 0:
                    self._at = _At.DATA_END
                continue
            end = data.find(b"\n", at)
            self._line += data[at:] if end < 0 else data[at : end + 1]
            if len(self._line) > LINE_MOST_BYTES:
                raise BadInput(f"a line of a chunked body has more than {LINE_MOST_BYTES} bytes", where="request")
            if end < 0:
                return None
            at = end + 1
            if self._ends(self._line):
                return data[at:]
            self._line = b""
        return None

    def _ends(self, line: bytes) -> bool:
        """Whether this line, whole, is the body's last."""
        text = line[:-2]
        if line[-2:] != _CRLF or b"\r" in text or b"\0" in text:
            raise BadInput("a line of a chunked body does not end with CR and LF", where="request")
        if self._at is _At.SIZE:
            self._missing_bytes = _size(text)
            self._at = _At.DATA if self._missing_bytes else _At.TRAILER
        elif self._at is _At.DATA_END:
            if text:
                raise BadInput("a chunk has more bytes than it says", where="request")
            self._at = _At.SIZE
        else:
            self._trailers_bytes += len(line)
            if self._trailers_bytes > TRAILERS_MOST_BYTES:
                raise BadInput(f"its trailers have more than {TRAILERS_MOST_BYTES} bytes", where="request")
            return not text
        return False


def whole_body(data: bytes, at: int, body_bytes: int | None) -> memoryview | None:
    """The body that begins at `at`, where all of it is there and nothing behind it; else None, also where that is to be seen.

    Of so many bytes, or in chunks: then in a single one, as HAProxy passes on what it has held whole. A short cut past Body.
    """
    if body_bytes is not None:
        return memoryview(data)[at:] if len(data) - at == body_bytes else None
    end = data.find(_CRLF, at, at + _SIZE_MOST_DIGITS + len(_CRLF))
    digits = data[at:end]
    if end <= at or not _HEX.issuperset(digits):
        return None
    begin, size = end + len(_CRLF), int(digits, 16)
    if size == 0 or len(data) != begin + size + len(_LAST_CHUNK) or not data.endswith(_LAST_CHUNK):
        return None
    return memoryview(data)[begin : begin + size]


def _size(text: bytes) -> int:
    digits = text.partition(b";")[0].rstrip(b" \t")
    if not 0 < len(digits) <= _SIZE_MOST_DIGITS or not _HEX.issuperset(digits):
        raise BadInput("a chunk's size is not a hexadecimal number", where="request")
    return int(digits, 16)
