"""Keeps what a process holds in memory out of the files that a crash would leave."""

from __future__ import annotations

import contextlib
import functools
import resource
from pathlib import Path

_FILTER = Path("/proc/self/coredump_filter")


@functools.cache
def keep_from_dumps() -> None:
    """From now on no core dump of this process and its children holds memory. Safe to repeat, costs nothing then.

    A limit of 0 stops files; where the kernel hands dumps to a program, it hands them over whatever the limit is, but only what
    the filter lets through.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # Linux alone has it
        _FILTER.write_text("0")
