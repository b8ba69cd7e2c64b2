"""One `up` or `down` at a time on a home."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import Conflict
from headrace.local.home import Home


class Busy(Conflict):
    """Another command holds the home's lock."""


@contextmanager
def only_one(home: Home) -> Iterator[None]:
    """Holds the home's lock; a kill frees it. Raises Busy where another command holds it."""
    home.make()
    with home.lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                "another `headrace up` or `headrace down` is at work", where=str(home.root), remedy="wait for it, then try again"
            ) from error
        yield
