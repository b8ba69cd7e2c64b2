"""A real door, HAProxy and all, with gateways without models behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from deployments.gateway.door.files import is_locked
from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.keeper import KEEPER_LOCK
from deployments.gateway.door.opening import close_door
from deployments.gateway.door.settings import DoorSettings
from deployments.gateway.door.slots import folder_of, taken_slots
from headrace.local.ports import free_port
from tests.support.waiting import until

STARTS_WITHIN_S = 60.0


@dataclass
class StartedGateway:
    """One `tests.support.door_gateway`."""

    process: subprocess.Popen[str]
    slot: int

    def kill(self) -> None:
        """As a lack of memory would."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """As Serve would."""
        self.process.communicate("", timeout=STARTS_WITHIN_S)


@dataclass
class LiveDoor:
    """One node's door. `node` is as good as the id of a Ray node; `program` is its gateways'."""

    settings: DoorSettings
    node: str = field(default_factory=lambda: uuid.uuid4().hex)
    program: str = "tests.support.door_gateway"
    gateways: list[StartedGateway] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where its sockets are."""
        return folder_of(self.node)

    @property
    def http(self) -> str:
        """Its URL."""
        scheme = "http" if self.settings.tls is None else "https"
        return f"{scheme}://{self.settings.host}:{self.settings.http_port}"

    @property
    def grpc(self) -> str:
        """Its address."""
        return f"{self.settings.host}:{self.settings.grpc_port}"

    @property
    def keeper(self) -> psutil.Process:
        """Its process."""
        return psutil.Process(int((self.folder / KEEPER_LOCK).read_text()))

    @property
    def haproxy(self) -> psutil.Process:
        """Its process, the only child of the keeper."""
        (child,) = self.keeper.children()
        return child

    def spawn(self) -> subprocess.Popen[str]:
        """Starts a gateway and does not wait."""
        told = json.dumps(dataclasses.asdict(self.settings))
        return subprocess.Popen(
            [sys.executable, "-m", self.program, self.node, told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self) -> StartedGateway:
        """Starts a gateway; returns when HAProxy has found one up."""
        process = self.spawn()
        assert process.stdout is not None
        started = StartedGateway(process, 0)
        self.gateways.append(started)
        started.slot = json.loads(process.stdout.readline())["slot"]
        return started

    def close(self) -> None:
        """Ends everything."""
        for gateway in self.gateways:
            gateway.kill()
        until(lambda: not taken_slots(self.folder, self.settings.slots), STARTS_WITHIN_S)
        close_door(self.node)
        assert not is_locked(self.folder / KEEPER_LOCK)
        shutil.rmtree(self.folder, ignore_errors=True)


def door_settings(**changes: object) -> DoorSettings:
    """Those of a door on loopback, at ports that are free."""
    binary = usable_haproxy()
    assert binary is not None
    made = DoorSettings(str(binary), "127.0.0.1", free_port(), free_port(), slots=4)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@contextlib.contextmanager
def live_door(**changes: object) -> Iterator[LiveDoor]:
    """A door without a gateway so far."""
    door = LiveDoor(door_settings(**changes))
    try:
        yield door
    finally:
        door.close()


def kill(process: psutil.Process) -> None:
    """With SIGKILL."""
    os.kill(process.pid, signal.SIGKILL)
