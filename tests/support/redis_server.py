"""A Redis at an address of this machine, in memory alone: where Ray's head keeps what it knows. `make tools` installs it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from headrace.local.ports import free_port
from tests.support.promtool import needed
from tests.support.waiting import until

STARTS_S = 60.0


@contextlib.contextmanager
def redis_at(address: str, folder: Path) -> Iterator[str]:
    """Its host:port. Whoever reaches that address may do everything."""
    port = free_port(address)
    command = [needed("redis-server"), "--bind", address, "--port", str(port), "--protected-mode", "no"]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    with (folder / "redis.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: connects(address, port), STARTS_S)
            yield f"{address}:{port}"
        finally:
            process.terminate()


def connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True
