"""What a request costs each process that serves it, found by the door it came in by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from cluster.errors import Conflict
from deployments.gateway.door.keeper import KEEPER_LOCK
from deployments.gateway.door.settings import read_settings
from deployments.gateway.door.slots import NAME, lock_path, root, taken_slots

HAPROXY, SERVER = "haproxy", "server"


@dataclass(frozen=True, slots=True)
class Servers:
    """The processes behind one port: HAProxy, and the gateway, or what stands in its place."""

    processes: Mapping[str, psutil.Process]

    def used_us(self) -> dict[str, float]:
        """Processor time of each so far, in user space and in the kernel, in microseconds."""
        times = {name: process.cpu_times() for name, process in self.processes.items()}
        return {name: 1e6 * (time.user + time.system) for name, time in times.items()}


def servers_behind(http_port: int) -> Servers:
    """Those of the door that listens on this port. Raises LookupError where there is none."""
    for folder in root().glob(f"{NAME}*"):
        try:
            settings = read_settings(folder)
        except (Conflict, FileNotFoundError):  # another version's, or just made or removed
            continue
        if settings.http_port != http_port or not (taken := taken_slots(folder, settings.slots)):
            continue
        keeper = psutil.Process(int((folder / KEEPER_LOCK).read_text(encoding="utf-8")))
        server = psutil.Process(int(lock_path(folder, taken[0]).read_text(encoding="utf-8")))
        return Servers({SERVER: server, HAPROXY: keeper.children()[0]})
    raise LookupError(f"no door listens on port {http_port}")
