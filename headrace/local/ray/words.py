"""What Ray writes about itself while we are its driver: into a file, for whoever looks for a fault, and not to a terminal."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG_MOST_BYTES = 1 << 20


@contextmanager
def kept_apart(log: Path) -> Iterator[None]:
    """Ray's C++ writes to the process's standard error, past Python, the last of a dead raylet's log too: it goes to `log`.

    What is written by `sys.stderr` goes where it did. Not for two threads at a time.
    """
    if log.exists() and log.stat().st_size > LOG_MOST_BYTES:
        log.unlink()
    sys.stderr.flush()
    ours, before = os.dup(2), sys.stderr
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(os.dup(ours), "w", buffering=1, encoding=before.encoding, errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"ray(\.|$)")
            yield
    finally:
        sys.stderr.close()
        sys.stderr = before
        os.dup2(ours, 2)
        os.close(ours)
