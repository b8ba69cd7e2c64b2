"""What a node says of itself. Sent there by value: it needs Python's own library alone, and no Headrace on the node."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

PACKAGES = ("ray", "headrace", "onnxruntime", "onnxruntime-gpu", "torch")
CONNECT_S = 3.0
GPUS_S = 10.0
MIB = 1 << 20


def now_s() -> float:
    """This node's clock, in Unix time."""
    return time.time()


def machine(
    variables: Sequence[str], disks: Sequence[str], paths: Sequence[str], addresses: Sequence[str], ports: Sequence[int]
) -> dict[str, Any]:
    """As `seen.MachineSeen`. `disks` are folders where room is needed, `paths` what ought to be there, `addresses` host:port to
    connect to, `ports` those that a door will listen at."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "variables": {name: os.environ.get(name) for name in variables},
        "disks": [_disk(path) for path in dict.fromkeys((*disks, tempfile.gettempdir(), *_shared_memory()))],
        "gpus": _gpus(),
        "visible": {path: os.path.exists(path) for path in paths},
        "reaches": _reaches(addresses),
        "taken": {port: _taken(port) for port in ports},
    }


def _shared_memory() -> tuple[str, ...]:
    """Where Ray keeps objects: elsewhere than on Linux with its other files."""
    return ("/dev/shm",) if platform.system() == "Linux" else ()  # noqa: S108 (looked at)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _disk(path: str) -> Mapping[str, Any]:
    """Of the folder, or of the one that it would be made in."""
    below = path
    while not os.path.exists(below) and os.path.dirname(below) != below:
        below = os.path.dirname(below)
    try:
        room = shutil.disk_usage(below)
        with tempfile.TemporaryFile(dir=below):
            pass
    except OSError as error:
        return {"path": path, "trouble": error.strerror or str(error)}
    return {"path": path, "total_bytes": room.total, "free_bytes": room.free}


def _gpus() -> list[Mapping[str, Any]] | None:
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=GPUS_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [[part.strip() for part in line.split(",")] for line in told.splitlines()]
    return [{"name": row[0], "driver": row[1], "memory_mib": int(row[2])} for row in rows if len(row) == 3 and row[2].isdigit()]


def _reaches(addresses: Sequence[str]) -> dict[str, str]:
    """All at a time: behind a firewall that says nothing each takes as long as it may, and who asks waits a minute."""
    with ThreadPoolExecutor(max_workers=max(len(addresses), 1)) as pool:
        return dict(zip(addresses, pool.map(_reach, addresses), strict=True))


def _reach(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ""


def _taken(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
