"""Searching everything that was written, and what Ray's own processes hold in memory, for bytes that must not be there."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import psutil
from cryptography.hazmat.primitives.serialization import load_pem_private_key

LEFT_OUT = {".git", ".venv", "site-packages", "node_modules", "__pycache__"}
LARGEST_BYTES = 64 << 20
RAYS = {"gcs_server", "raylet", "dashboard.py"}
_PIECE_BYTES = 16 << 20


def forms_of(name: str, secret: bytes) -> dict[str, bytes]:
    """The secret as it is, and as texts have it; base64 without its last digits, which depend on what follows."""
    whole = len(secret) // 3 * 3
    texts = {"base64": base64.b64encode(secret[:whole]), "urlsafe": base64.urlsafe_b64encode(secret[:whole])}
    return {f"{name} {form}": text for form, text in {"raw": secret, "hex": secret.hex().encode(), **texts}.items()}


def forms_of_private(pem: str) -> dict[str, bytes]:
    """A private key in PEM: its text, and the 32 bytes that are the secret."""
    key = load_pem_private_key(pem.encode(), password=None)
    raw: bytes = key.private_bytes_raw()  # type: ignore[union-attr]
    return forms_of("private key", raw) | {"private key in PEM": pem.splitlines()[1].encode()}


def found_in(content: bytes, wanted: Mapping[str, bytes]) -> set[str]:
    """Which of them the content holds."""
    return {name for name, value in wanted.items() if value in content}


def files_since(folders: Iterable[Path], start_s: float, but: Path) -> Iterator[Path]:
    """Files below the folders that were written to since then, but for those of a folder."""
    for folder in folders:
        for at, names, files in os.walk(folder):
            names[:] = [name for name in names if name not in LEFT_OUT and Path(at, name) != but]
            for name in files:
                file = Path(at, name)
                try:
                    seen = file.lstat()
                except FileNotFoundError:  # other tests' go at any time
                    continue
                if file.is_file() and not file.is_symlink() and seen.st_mtime >= start_s and seen.st_size <= LARGEST_BYTES:
                    yield file


def found_below(
    folders: Iterable[Path], start_s: float, but: Path, wanted: Mapping[str, bytes]
) -> tuple[int, dict[str, set[str]]]:
    """How many files were searched, and which of them hold what."""
    searched, found = 0, dict[str, set[str]]()
    for file in files_since(folders, start_s, but):
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            continue
        searched += 1
        if held := found_in(content, wanted):
            found[str(file)] = held
    return searched, found


def rays_own(session: str) -> dict[str, psutil.Process]:
    """Processes of Ray itself in the cluster whose logs lie in that folder: they hold what is told of actors, tasks and jobs."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        for name in RAYS & {Path(word).name for word in line[:2]}:
            if session in " ".join(line):
                found[f"{name} {process.pid}"] = process
    return found


def found_in_memory(process: psutil.Process, wanted: Mapping[str, bytes]) -> set[str]:
    """Which of them stand in what a process has written to its own memory, and in Ray's objects, where it shares these."""
    found: set[str] = set()
    with open(f"/proc/{process.pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            if rights == "rw-p":  # shared memory is mostly holes: to read it like this would fill it
                begin, end = (int(part, 16) for part in span.split("-"))
                found |= _found_between(memory, begin, end, wanted)
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        if "plasma" in os.readlink(link):
            found |= _found_in_objects(link, wanted)
    return found


def _found_in_objects(link: Path, wanted: Mapping[str, bytes]) -> set[str]:
    """In what was written of the store of objects."""
    found: set[str] = set()
    with contextlib.suppress(OSError), link.open("rb", buffering=0) as store:  # a socket, or no data after the last
        end = 0
        while True:
            begin = os.lseek(store.fileno(), end, os.SEEK_DATA)
            end = os.lseek(store.fileno(), begin, os.SEEK_HOLE)
            found |= _found_between(store, begin, end, wanted)
    return found


def _found_between(memory: IO[bytes], begin: int, end: int, wanted: Mapping[str, bytes]) -> set[str]:
    found, kept, most = set[str](), b"", max(map(len, wanted.values()))
    while begin < end:
        try:
            memory.seek(begin)
            piece = memory.read(min(_PIECE_BYTES, end - begin))
        except (OSError, OverflowError):  # pages of devices
            break
        if not piece:
            break
        found |= found_in(kept + piece, wanted)
        kept, begin = piece[-most:], begin + len(piece)
    return found
