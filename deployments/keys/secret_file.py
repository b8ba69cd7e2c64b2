"""A secret in a file that only its user may read."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from cluster.errors import Conflict

_MOST_BYTES = 4096


def write_once(file: Path, secret: str) -> None:
    """Writes it where there is no such file; leaves one that is there as it is."""
    with contextlib.suppress(FileExistsError):
        written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(written, secret.encode())
        finally:
            os.close(written)


def read_secret(file: Path, *, what: str, remedy: str) -> str:
    """What is in it. Raises Conflict where others may read it or nothing is in it, FileNotFoundError where there is none."""
    with file.open("rb") as opened:
        found = os.fstat(opened.fileno())
        text = opened.read(_MOST_BYTES).decode("ascii", errors="replace").strip()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Conflict(f"others than this user may read {what}, or it is theirs", where=str(file), remedy=remedy)
    if not text:
        raise Conflict(f"{what} is empty", where=str(file), remedy=remedy)
    return text
