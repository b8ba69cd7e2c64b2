"""Where gateways listen: numbered slots in a folder of the node, which only this user can enter. HAProxy checks them all."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import Conflict, NoCapacity
from deployments.gateway.door.files import is_locked, note_holder, try_lock

SLOTS = 4  # unless told otherwise
BACKLOG = 4096  # the kernel takes its own limit where that is lower
# A socket's path ends at 107 bytes. The folder's name takes 32, and `/NN.infer` 9.
# HAProxy's configuration has its own idea of quotes and spaces.
_PLAIN = re.compile(r"[A-Za-z0-9._/-]{1,60}")
NAME = "headrace-door-"
NODE_CHARACTERS = 16  # of a Ray node's id, which is 56 random hexadecimal digits


@dataclass(slots=True)
class Slot:
    """One gateway's place. `infer` takes HTTP's infer and gRPC's ModelInfer alike, both as HTTP/1.1; `http` every other HTTP
    request. Both listen already and do not block. grpc.aio binds its socket itself: `unix:` and `grpc_path`."""

    number: int
    infer: socket.socket
    http: socket.socket
    grpc_path: Path
    _paths: tuple[Path, ...] = field(repr=False)
    _lock: int = field(repr=False)

    def release(self) -> None:
        """Closes what listens, and lets another gateway have the place. Safe to repeat."""
        if self._lock < 0:
            return
        for listening in (self.infer, self.http):
            listening.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1


def door_folder(node_id: str) -> Path:
    """The folder of a Ray node's door, made where it is missing. Raises Conflict where it is not this user's alone."""
    folder = folder_of(node_id)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    check_folder(folder)
    return folder


def folder_of(node_id: str) -> Path:
    """Where it is, or would be."""
    return root() / f"{NAME}{node_id[:NODE_CHARACTERS]}"


def root() -> Path:
    """Where such folders lie."""
    default = tempfile.gettempdir()
    return Path(default if _PLAIN.fullmatch(default) else "/tmp")  # noqa: S108 (made with mode 700, checked)


def check_folder(folder: Path) -> None:
    """Raises Conflict where others could put sockets there, or could have."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise Conflict("this is no folder of this user alone", where=str(folder), remedy="remove it, or set TMPDIR")


def take_slot(folder: Path, slots: int = SLOTS) -> Slot:
    """The first free slot, with its sockets listening; held until `release`, or until this process ends.

    What a killed gateway left there is removed. Raises NoCapacity where all are taken, OSError where a socket can't be made.
    """
    for number in range(1, slots + 1):
        lock = try_lock(lock_path(folder, number))
        if lock is not None:
            try:
                return _slot(folder, number, lock)
            except BaseException:
                os.close(lock)
                raise
    raise NoCapacity(
        f"all {slots} places of gateways on this node are taken", where=str(folder), remedy="run fewer gateways on a node"
    )


def taken_slots(folder: Path, slots: int = SLOTS) -> list[int]:
    """Which are held by a living process just now."""
    return [number for number in range(1, slots + 1) if is_locked(lock_path(folder, number))]


def lock_path(folder: Path, number: int) -> Path:
    """What the gateway in a slot holds locked."""
    return folder / f"{number}.lock"


def _slot(folder: Path, number: int, lock: int) -> Slot:
    paths = tuple(folder / f"{number}.{way}" for way in ("infer", "http", "grpc"))
    for path in paths:
        path.unlink(missing_ok=True)
    with contextlib.ExitStack() as undo:
        infer = undo.enter_context(_listening(paths[0]))
        http = undo.enter_context(_listening(paths[1]))
        undo.pop_all()
    note_holder(lock)
    return Slot(number, infer, http, paths[2], paths, lock)


def _listening(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.bind(str(path))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening
