"""gzip and deflate bodies, inflated no further than a bound: a small body may hold a bomb."""

from __future__ import annotations

import gzip
import zlib

from cluster.errors import BadInput, TooLarge

WORTH_BYTES = 16_384  # compressing a smaller answer costs more than sending it


def inflate(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Undoes Content-Encoding. Raises BadInput for an unknown or broken encoding, TooLarge above `limit_bytes`."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise BadInput(f"{encoding!r} is not supported", where="Content-Encoding", remedy="use gzip or deflate")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # tells gzip and zlib apart by itself
    try:
        data = inflater.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise BadInput(f"the body is not valid {encoding}: {error}", where="Content-Encoding") from None
    if len(data) > limit_bytes:
        raise TooLarge(f"the body inflates to more than {limit_bytes} bytes", where="request")
    if not inflater.eof or inflater.unused_data:
        raise BadInput(f"the {encoding} body is cut short or has bytes after its end", where="Content-Encoding")
    return data


def deflate(body: bytes, accepted: str) -> tuple[bytes, str]:
    """Compresses an answer that is worth it, as Accept-Encoding allows; the encoding used is empty where none is."""
    if len(body) >= WORTH_BYTES:
        names = {part.partition(";")[0].strip() for part in accepted.split(",") if "q=0" not in part.replace("q=0.", "")}
        if "gzip" in names:
            return gzip.compress(body, compresslevel=1), "gzip"
        if "deflate" in names:
            return zlib.compress(body, level=1), "deflate"
    return body, ""
