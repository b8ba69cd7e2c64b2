"""Folders that processes lock. The kernel gives a lock back when its process ends, however it dies."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_HELD = 16  # by one process at a time: an engine once loaded reads its files no more


class Holds:
    """The copies that this process has locked."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: OrderedDict[Path, int] = OrderedDict()

    def take(self, path: Path) -> bool:
        """Whether the copy is there, and locked from now on."""
        if self.is_same(path):
            return True
        try:
            lock = locked(path, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False
        if not _is_at(path, lock):  # it went before it was locked
            os.close(lock)
            return False
        self.put(path, lock)
        return True

    def put(self, path: Path, lock: int) -> None:
        """Keeps the lock in place of an earlier one, and gives the oldest back where there are too many."""
        with self._guard:
            surplus = [self._locks.pop(path)] if path in self._locks else []
            self._locks[path] = lock
            while len(self._locks) > MOST_HELD:
                surplus.append(self._locks.popitem(last=False)[1])
        for old in surplus:
            os.close(old)

    def is_same(self, path: Path) -> bool:
        """Whether what is there now is what this process has locked."""
        with self._guard:
            lock = self._locks.get(path)
            if lock is None or not _is_at(path, lock):
                return False
            self._locks.move_to_end(path)
            return True


HOLDS = Holds()


def _is_at(path: Path, lock: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(lock))
    except FileNotFoundError:
        return False


def locked(path: Path, how: int) -> int:
    """Locks a folder, as `fcntl.flock` does, until the descriptor that comes back is closed. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def locking(path: Path, how: int) -> Iterator[None]:
    """Holds a folder while the block runs; see `locked`."""
    descriptor = locked(path, how)
    try:
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether any process uses the folder; also where that can't be known."""
    try:
        os.close(locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except OSError:
        return True
    return False
