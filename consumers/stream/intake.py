"""How records are taken from the log for one micro-batch."""

from __future__ import annotations

import time

from consumers.stream.log.port import Log, Records


def gather(log: Log, most_rows: int, most_bytes: int, *, linger_s: float, timeout_s: float) -> list[Records]:
    """Records until there are so many rows or bytes, or `linger_s` after the first; none where none came for `timeout_s`.

    Raises what `Log.poll` raises.
    """
    slices = log.poll(max_rows=most_rows, timeout_s=timeout_s)
    rows, size_bytes = sum(map(len, slices)), sum(s.size_bytes for s in slices)
    closes_s = time.monotonic() + linger_s
    while 0 < rows < most_rows and size_bytes < most_bytes and (left_s := closes_s - time.monotonic()) > 0:
        more = log.poll(max_rows=most_rows - rows, timeout_s=left_s)
        slices += more
        rows += sum(map(len, more))
        size_bytes += sum(s.size_bytes for s in more)
    return slices
