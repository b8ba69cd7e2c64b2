"""Bounds Ray's folder of logs. Ray bounds each file; but every worker that is replaced leaves its own behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 1 << 30
QUIET_S = 600.0  # what was written to since then may be of a process that lives


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file; `written_s` is when it was last written to, in Unix time."""

    path: Path
    size: int
    written_s: float


def prune(folder: Path, most_bytes: int = MOST_BYTES) -> int:
    """Deletes the oldest files until those in the folder have `most_bytes` in all. Returns how many."""
    chosen = superfluous(tuple(_files(folder)), most_bytes, time.time())
    for file in chosen:
        file.path.unlink(missing_ok=True)
    return len(chosen)


def superfluous(files: tuple[LogFile, ...], most_bytes: int, now_s: float) -> tuple[LogFile, ...]:
    """The oldest, down to the bound; never one that was written to just now. Pure."""
    too_much, chosen = sum(file.size for file in files) - most_bytes, []
    for file in sorted(files, key=lambda one: one.written_s):
        if too_much <= 0 or now_s - file.written_s < QUIET_S:
            break
        if file.size:
            chosen.append(file)
            too_much -= file.size
    return tuple(chosen)


def _files(folder: Path) -> Iterator[LogFile]:
    for path in folder.rglob("*"):
        try:
            seen = path.lstat()
        except FileNotFoundError:
            continue  # rotated just now
        if path.is_file() and not path.is_symlink():
            yield LogFile(path, seen.st_size, seen.st_mtime)
