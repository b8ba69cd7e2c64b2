"""The locks of a door's folder: the kernel frees them, however their holders end."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def try_lock(path: Path) -> int | None:
    """Takes the lock and returns the descriptor that holds it; None where another process has it. Raises OSError."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock


def is_locked(path: Path) -> bool:
    """Whether a living process holds this file's lock."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def note_holder(lock: int) -> None:
    """Writes into a locked file which process holds it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)


def holder_of(path: Path) -> int | None:
    """A descriptor (pidfd) that can be read once the process that holds the lock has ended; None where there is none."""
    try:
        watched = os.pidfd_open(int(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    if is_locked(path):  # so it is not a later process of that number
        return watched
    os.close(watched)
    return None


@contextlib.contextmanager
def waited_lock(path: Path) -> Iterator[bool]:
    """Waits for the lock. Whether it still is the file's of that name: who removes the folder holds it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield _is_at(lock, path)
    finally:
        os.close(lock)


def _is_at(lock: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(lock), there)
