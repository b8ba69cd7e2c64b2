"""gzip and deflate bodies, inflated no further than a bound: a small body may hold a bomb."""

from __future__ import annotations

import gzip
import zlib

from cluster.errors import BadInput, TooLarge

MEMBERS_MOST = 64  # of one gzip body
WORTH_BYTES = 16_384  # compressing a smaller answer costs more than sending it


def inflate(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Undoes Content-Encoding. Raises BadInput for an unknown or broken encoding, TooLarge above `limit_bytes`."""
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise BadInput(f"{encoding!r} is not supported", where="Content-Encoding", remedy="use gzip or deflate")
    members: list[bytes] = []
    size = 0
    while body or not members:
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # tells gzip and zlib apart by itself
        try:
            members.append(inflater.decompress(body, limit_bytes + 1 - size))
        except zlib.error as error:
            raise BadInput(f"the body is not valid {encoding}: {error}", where="Content-Encoding") from None
        size += len(members[-1])
        if size > limit_bytes or len(members) > MEMBERS_MOST:
            what = f"the body inflates to more than {limit_bytes} bytes, or is {MEMBERS_MOST} members"
            raise TooLarge(what, where="request")
        if not inflater.eof or (inflater.unused_data and encoding != "gzip"):
            raise BadInput(f"the {encoding} body is cut short or has bytes after its end", where="Content-Encoding")
        body = inflater.unused_data  # gzip's files may follow one another
    return members[0] if len(members) == 1 else b"".join(members)


def deflate(body: bytes, accepted: str) -> tuple[bytes, str]:
    """Compresses an answer that is worth it, as Accept-Encoding allows; the encoding used is empty where none is."""
    if len(body) >= WORTH_BYTES:
        names = {part.partition(";")[0].strip().lower() for part in accepted.split(",") if not _is_refused(part)}
        if "gzip" in names:
            return gzip.compress(body, compresslevel=1), "gzip"
        if "deflate" in names:
            return zlib.compress(body, level=1), "deflate"
    return body, ""


def _is_refused(part: str) -> bool:
    """Whether one coding of Accept-Encoding has the weight 0, however that is written."""
    weights = [each.strip().partition("=")[2] for each in part.lower().split(";")[1:] if each.strip().startswith("q=")]
    return any(weight.strip("0") in ("", ".") for weight in weights)
