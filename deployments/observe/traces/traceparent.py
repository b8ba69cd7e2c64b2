"""W3C's `traceparent`: which trace a request or record belongs to, and whether its caller wants it kept. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

HEADER = "traceparent"
HEADER_BYTES = HEADER.encode()
_FORM = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?", re.DOTALL)
_SAMPLED = 1


class TraceContext(NamedTuple):
    """A span of somebody's, under which ours go: numbers of 128 and 64 bits."""

    trace_id: int
    span_id: int
    sampled: bool


class CallerTrace(NamedTuple):
    """What a request brought: its `traceparent`, empty where it has none, and when its head came to the door (Unix microseconds,
    as digits), empty where the door does not say."""

    traceparent: bytes = b""
    came_us: bytes = b""


NO_TRACE = CallerTrace()


def parsed(value: bytes) -> TraceContext | None:
    """What the header says; None where it is none by the standard's rules. Of a later version it is what version 00 knows."""
    found = _FORM.fullmatch(value)
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    return TraceContext(int(found[2], 16), int(found[3], 16), bool(int(found[4], 16) & _SAMPLED))


def written(trace_id: int, span_id: int) -> bytes:
    """The header of a sampled span."""
    return b"00-%032x-%016x-01" % (trace_id, span_id)
