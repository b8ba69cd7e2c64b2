"""Sockets for one gateway in a folder, as a door's slot gives them."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Slot:
    """Sockets in a folder, as a door gives them."""

    infer: socket.socket
    http: socket.socket
    grpc_path: Path


def slot_in(folder: Path) -> Slot:
    listening = []
    for name in ("infer", "http"):
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        one.bind(str(folder / name))
        one.listen()
        listening.append(one)
    return Slot(*listening, folder / "grpc")
