"""One run at a time for one output."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from cluster.errors import Conflict
from deployments.artifacts.places import Place

_TRIES = 5
_GLANCE_S = 0.02


@contextmanager
def file_lock(home: Place, name: str, *, wait: bool) -> Iterator[None]:
    """Holds a local output while the block runs. The kernel gives the lock back when the process ends, however it dies.

    With `wait` blocks until the other run is over; else raises Conflict.
    """
    home.make()
    path = Path(home.path) / "lock"
    with path.open("a+") as file:
        if not _locked(file, wait=wait):
            file.seek(0)
            raise under_way(name, file.read().strip())
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _locked(file: TextIO, *, wait: bool) -> bool:
    if wait:
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_GLANCE_S)  # `is_held` takes the lock for an instant, and that must not refuse a run
        else:
            return True
    return False


def is_held(home: Place) -> bool | None:
    """Whether a run is under way; None where the output is not local, so that only the cluster knows."""
    if not home.is_local:
        return None
    path = Path(home.path) / "lock"
    if not path.exists():
        return False
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def under_way(name: str, owner: str) -> Conflict:
    """Somebody else runs this batch."""
    return Conflict(
        f"a run of batch {name} is under way" + (f" ({owner})" if owner else ""),
        where=name,
        remedy="wait for it (`headrace batch status`), or say on_running: queue",
    )
