"""One gateway's servers: ours for `infer` of both protocols, uvicorn for all other HTTP, grpc.aio for all other gRPC.

Behind a door they listen on a slot's Unix sockets. Without one, uvicorn and grpc.aio listen for callers themselves, and do
everything: slower, and for loopback only, since nothing bounds what callers send by time.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cluster.control_plane import ControlPlane
from cluster.errors import BadInput
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Admission
from deployments.gateway.console.console import Console, ConsoleSettings
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.exchanges import InferExchanges
from deployments.gateway.grpc.infer import GrpcInfer
from deployments.gateway.grpc.server import GrpcServer
from deployments.gateway.grpc.service import InferenceService
from deployments.gateway.http.app import GatewayApp
from deployments.gateway.http.callers import Callers
from deployments.gateway.http.infer import HttpInfer
from deployments.gateway.http.server.connection import InferServer
from deployments.gateway.http.uvicorn_server import HttpServer
from deployments.gateway.large import LargeWork
from deployments.gateway.repository import Repository

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Of one gateway. `max_requests` are under way at a time, HTTP and gRPC together, and the rest is refused. A body may have
    `max_body_bytes`, also inflated, and a gRPC message `max_message_bytes`; all that are under way `max_buffered_bytes`."""

    max_requests: int = 2048
    max_body_bytes: int = 256 << 20
    max_message_bytes: int = 256 << 20
    max_buffered_bytes: int = 1 << 30


class DoorSockets(Protocol):
    """Where a door hands requests over: sockets that listen, and the path at which grpc.aio shall."""

    @property
    def infer(self) -> socket.socket:
        """For HTTP's `infer` and gRPC's `ModelInfer`, both as HTTP/1.1."""

    @property
    def http(self) -> socket.socket:
        """For every other HTTP request."""

    @property
    def grpc_path(self) -> Path:
        """For every other gRPC call, by HTTP/2."""


class GatewayServer:
    """Everything that one gateway serves. Made and used on the event loop that the dataplane is used from."""

    def __init__(
        self,
        dataplane: DataPlane,
        repository: Repository,
        control: ControlPlane,
        guard: Guard,
        server_version: str,
        callers: Callers,
        limits: ServerLimits | None = None,
        console: ConsoleSettings | None = None,
    ) -> None:
        limits = limits or ServerLimits()
        self.admission = Admission(limits.max_requests, limits.max_buffered_bytes)
        self._large = LargeWork()
        self._guard = guard
        infer = HttpInfer(dataplane, self._large, limits.max_body_bytes)
        self.app = GatewayApp(
            dataplane,
            repository,
            control,
            guard,
            server_version,
            limits.max_body_bytes,
            self.admission,
            self._large,
            callers,
            Console(control, guard, callers, self.admission, server_version, infer, console),
        )
        grpc_infer = GrpcInfer(dataplane, self._large)
        service = InferenceService(grpc_infer, dataplane, repository, guard, server_version, self.admission)
        self._grpc = GrpcServer(service, dataplane, guard, self.admission, limits.max_message_bytes, limits.max_requests)
        self._infer = InferServer(
            InferExchanges(infer, grpc_infer, guard, self.admission, limits.max_message_bytes), self.admission
        )
        self._http = HttpServer(self.app)
        self._stopping: asyncio.Task[None] | None = None

    @property
    def requests_under_way(self) -> int:
        """How many are taken and not answered, HTTP and gRPC together."""
        return self.admission.requests

    async def start(self, slot: DoorSockets) -> None:
        """Serves behind a door. Closes the slot's sockets at the end. Raises OSError or RuntimeError where it can't listen."""
        self._guard.start(behind_door=True)
        await self._grpc.start(f"unix:{slot.grpc_path}")
        await self._http.start(slot.http, behind_door=True)
        await self._infer.start(slot.infer)

    async def listen(self, host: str, http_port: int, grpc_port: int | None) -> tuple[int, int | None]:
        """Serves without a door, on loopback; no gRPC where that port is None. Returns the ports, free ones where 0 was
        asked for. Raises BadInput, OSError or RuntimeError."""
        if host not in LOOPBACK:
            raise BadInput(
                f"{host!r} is not loopback", where="host", remedy="only a door may listen elsewhere: run where HAProxy can"
            )
        self._guard.start(behind_door=False)
        address = f"[{host}]" if ":" in host else host
        grpc_port = None if grpc_port is None else await self._grpc.start(f"{address}:{grpc_port}")
        listening = socket.create_server((host, http_port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        http_port = listening.getsockname()[1]
        await self._http.start(listening, behind_door=False)
        return http_port, grpc_port

    async def stop(self, within_s: float) -> None:
        """Takes no more, answers what it has, and gives up what is not answered within so many seconds. Safe to repeat, and where
        it was never started."""
        if self._stopping is None:
            self.admission.ending.set()
            self._stopping = asyncio.create_task(self._stop(within_s))
        await asyncio.shield(self._stopping)

    async def _stop(self, within_s: float) -> None:
        stops = self._infer.stop(within_s), self._grpc.stop(within_s), self._http.stop(within_s)
        ends = await asyncio.gather(*stops, return_exceptions=True)  # one that fails ends no request of the others
        self._large.close()
        await self._guard.close()
        for end in ends:
            if end is not None:
                raise end
