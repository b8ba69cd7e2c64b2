"""Copies of remote artifacts on this machine: within a bound of bytes, the least recently used go first, never one in use."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cluster.errors import BadInput, NoCapacity, Unreachable
from deployments.artifacts.locks import HOLDS, is_locked, locked, locking

FOLDER_VARIABLE = "HEADRACE_ARTIFACT_CACHE"
MAX_VARIABLE = "HEADRACE_ARTIFACT_CACHE_BYTES"
FREE_VARIABLE = "HEADRACE_ARTIFACT_CACHE_FREE_BYTES"
_GIB = 1 << 30
_DIGEST = re.compile(r"[0-9a-f]{64}")
_STAGING, _GONE = ".staging-", ".gone-"

_log = logging.getLogger(__name__)


def _default_folder() -> Path:
    return Path.home() / ".cache" / "headrace" / "artifacts"


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Of this node: copies take `max_bytes` at most, and go while less than `free_bytes` are free on their disk.

    One artifact that is larger than `max_bytes` is fetched all the same, and so is one for which there is room on the disk though
    not beside `free_bytes`: what is wanted now comes before what may be wanted again.
    """

    folder: Path = field(default_factory=_default_folder)
    max_bytes: int = 20 * _GIB
    free_bytes: int = 2 * _GIB

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """HEADRACE_ARTIFACT_CACHE is the folder, HEADRACE_ARTIFACT_CACHE_BYTES and HEADRACE_ARTIFACT_CACHE_FREE_BYTES the bounds.

        An empty variable counts as one that is not set. Raises BadInput for a number that is none.
        """
        seen = os.environ if environment is None else environment
        folder = seen.get(FOLDER_VARIABLE)
        return cls(
            Path(folder).expanduser().absolute() if folder else _default_folder(),
            _bytes_in(seen, MAX_VARIABLE, 20 * _GIB),
            _bytes_in(seen, FREE_VARIABLE, 2 * _GIB),
        )


def _bytes_in(environment: Mapping[str, str], variable: str, otherwise: int) -> int:
    text = environment.get(variable, "").strip()
    if text and not text.isdecimal():
        raise BadInput("is no whole number of bytes", where=variable, remedy=f"write digits alone, e.g. {otherwise}")
    return int(text) if text else otherwise


@dataclass(frozen=True, slots=True)
class Copy:
    """One artifact in the cache. `used_ns` is when a process last asked for it, in nanoseconds since the epoch."""

    path: Path
    size_bytes: int
    used_ns: int
    in_use: bool


def superfluous(copies: Sequence[Copy], need_bytes: int, free_bytes: int, settings: CacheSettings) -> list[Copy]:
    """Those that must go so that `need_bytes` more may come, the least recently used first. Pure."""
    total_bytes = sum(copy.size_bytes for copy in copies)
    gone: list[Copy] = []
    for copy in sorted(copies, key=lambda copy: copy.used_ns):
        if total_bytes + need_bytes <= settings.max_bytes and free_bytes - need_bytes >= settings.free_bytes:
            break
        if not copy.in_use:
            gone.append(copy)
            total_bytes -= copy.size_bytes
            free_bytes += copy.size_bytes
    return gone


class ArtifactCache:
    """Any number of processes use one folder at a time. A copy is named by its digest, and locked by whoever uses it."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._folder = settings.folder

    def hold(self, digest: str) -> Path | None:
        """The copy, or None where there is none. It stays while this process lives, or until it asked for MOST_HELD others."""
        path = self._folder / digest
        if not HOLDS.take(path):
            return None
        with suppress(OSError):  # a cache that may only be read has no order
            os.utime(path)
        return path

    def drop(self, path: Path) -> None:
        """Removes the copy that this process holds, where it is still the same: another may have brought a whole one."""
        if not HOLDS.is_same(path):
            return
        with suppress(FileNotFoundError), _explaining(path):
            _clear([_set_aside(path)])

    def add(self, digest: str, size_bytes: int, fill: Callable[[Path], None]) -> Path:
        """Makes room for a copy, lets `fill` write it, and holds it. It appears whole or not at all.

        Raises what `fill` raises, NoCapacity on a full disk, and Unreachable where the folder can't be written.
        """
        path = self._folder / digest
        with _explaining(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(size_bytes)
            with self._staging() as staging:
                copied = staging / digest
                copied.mkdir()
                fill(copied)
                lock = locked(copied, fcntl.LOCK_SH)
                try:
                    os.rename(copied, path)
                except OSError as error:
                    os.close(lock)
                    # Another process was first: its copy was verified as ours was.
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not HOLDS.take(path):
                        raise
                else:
                    HOLDS.put(path, lock)
        return path

    def _make_room(self, need_bytes: int) -> None:
        try:
            with locking(self._folder, fcntl.LOCK_EX):
                left = [path for path in self._folder.glob(".*") if path.name.startswith((_STAGING, _GONE))]
                gone = [path for path in left if not is_locked(path)]  # of processes that were killed
                free_bytes = shutil.disk_usage(self._folder).free
                for copy in superfluous(self._copies(), need_bytes, free_bytes, self._settings):
                    gone += self._given_up(copy)
        except OSError as error:
            _log.warning("%s: no room was made for another artifact: %s", self._folder, error)
        else:
            _clear(gone)

    def _given_up(self, copy: Copy) -> list[Path]:
        """Where the copy lies now, to be removed; nowhere where a process has begun to use it."""
        try:
            lock = locked(copy.path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        try:
            _log.info("%s was not used lately: its %d bytes are given up", copy.path, copy.size_bytes)
            return [_set_aside(copy.path)]  # whoever waits for the lock finds that it is gone
        finally:
            os.close(lock)

    def _copies(self) -> list[Copy]:
        found = [path for path in self._folder.iterdir() if _DIGEST.fullmatch(path.name)]
        return [Copy(path, _size_of(path), path.stat().st_mtime_ns, is_locked(path)) for path in found]

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """A folder for a copy that grows; locked, so that nobody takes it for what a killed process left."""
        with locking(self._folder, fcntl.LOCK_SH):
            path = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self._folder))
            lock = locked(path, fcntl.LOCK_SH)
        try:
            yield path
        finally:
            _clear([path])
            os.close(lock)


def _set_aside(path: Path) -> Path:
    """Takes a copy away in one step: nobody finds half of it."""
    aside = Path(tempfile.mkdtemp(prefix=_GONE, dir=path.parent))
    os.rename(path, aside / path.name)
    return aside


def _clear(folders: Sequence[Path]) -> None:
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue  # another process removes it too
        except OSError as error:  # tried again with the next copy; it must not keep this one from its caller
            _log.warning("%s can't be removed: %s", folder, error)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _explaining(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"free some space, or name a folder on another disk in {FOLDER_VARIABLE}"
            raise NoCapacity("no space left for a copy of the artifact", where=str(where), remedy=remedy) from error
        raise Unreachable(
            f"the artifact can't be copied: {error}",
            where=str(where),
            remedy="check its place, this folder, and permissions",
        ) from error
