"""The gRPC door of one gateway replica: the protocol, health and reflection on one port, which a node's replicas share."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from cluster.errors import BadInput
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.grpc.calls import Calls
from deployments.gateway.grpc.front import Behind, GrpcFront
from deployments.gateway.grpc.health import HEALTH_SERVICE, Health
from deployments.gateway.grpc.lane import GrpcLane
from deployments.gateway.grpc.service import SERVICE, InferenceService
from deployments.gateway.protocol.proto import inference_pb2 as pb
from deployments.gateway.repository import Repository

MAX_MESSAGE_BYTES = (2 << 30) - 1  # gRPC counts a message's bytes in 32 bits with a sign

TOLD_S = 0.25
LAST_S = 1.0  # for the last answers to go out


class GrpcServer:
    """One server. Call `start` once, on the loop that the dataplane is used from, and `stop` at the end."""

    def __init__(
        self,
        dataplane: DataPlane,
        repository: Repository,
        server_version: str,
        max_message_bytes: int,
        max_calls: int,
        haproxy: Path | None,
    ) -> None:
        """`max_calls` are taken at a time, the rest is refused at once. With an `haproxy` that takes the calls, a replica answers
        more of them. Raises BadInput for a limit that gRPC does not have."""
        if not 0 < max_message_bytes <= MAX_MESSAGE_BYTES:
            raise BadInput(f"must be 1 to {MAX_MESSAGE_BYTES} bytes; got {max_message_bytes}", where="max_grpc_message_bytes")
        self._calls = Calls()
        self._service = InferenceService(dataplane, repository, server_version, self._calls)
        self._health = Health(dataplane, SERVICE, self._calls.ending)
        self._max_calls = max_calls
        self._max_message_bytes = max_message_bytes
        self._server: grpc.aio.Server | None = None
        self._lane = GrpcLane(self._service.infer, self._calls, max_message_bytes, max_calls)
        self._haproxy = haproxy
        self._front: GrpcFront | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port, which is a free one where 0 was asked for. Raises RuntimeError or OSError where it can't be
        had."""
        limits = [(f"grpc.max_{way}_message_length", self._max_message_bytes) for way in ("receive", "send")]
        shared = 1 if self._haproxy is None else 0
        server = grpc.aio.server(options=[*limits, ("grpc.so_reuseport", shared)], maximum_concurrent_rpcs=self._max_calls)
        server.add_generic_rpc_handlers((self._service.handlers(), self._health.handlers()))
        reflection.enable_server_reflection((SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME), server, pool=_reflected())
        if self._haproxy is None:
            bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        else:
            behind = Behind(await self._lane.open(), server.add_insecure_port("127.0.0.1:0"), self._max_calls)
            self._front = GrpcFront(self._haproxy, host, port, behind)
            bound = self._front.port
        await server.start()
        self._server = server
        return bound

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, and lets those under way end within `grace_s`. Safe where it was never started.

        A call that reaches grpc.aio as it stops is dropped: it never comes to be handled, and is waited for in vain. So it stops
        when those that were taken are answered, and when callers that go on have been told.
        """
        self._calls.ending.set()
        if self._server is not None:
            await asyncio.sleep(min(TOLD_S, grace_s))
            await self._calls.ended(grace_s)
            if self._front is not None:
                await self._front.stop(min(LAST_S, grace_s))
            await self._lane.close()
            await self._server.stop(min(LAST_S, grace_s))


def _reflected() -> Any:
    """The pool that reflection reads: our messages' own, with the other services on the port added."""
    pool: Any = pb.DESCRIPTOR.pool
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool
