"""grpc.aio in one gateway: the protocol, health and reflection. Behind a door, all but `ModelInfer` comes here."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from cluster.errors import BadInput
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Admission
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.grpc.admitting import Admitting
from deployments.gateway.grpc.health import HEALTH_SERVICE, Health
from deployments.gateway.grpc.infer import SERVICE
from deployments.gateway.grpc.service import InferenceService
from deployments.gateway.protocol.proto import inference_pb2 as pb

MAX_MESSAGE_BYTES = (2 << 30) - 1  # gRPC counts a message's bytes in 32 bits with a sign
# What a door lets pass, each entry counted with 32 bytes, and what it adds: a caller's certificate above all. Else it were 8 KiB.
METADATA_MOST_BYTES = 64 << 10

# What anybody may ask: health, of models too, for of those it asks itself who calls.
OPEN = frozenset(
    {
        *(f"/{SERVICE}/{call}" for call in ("ServerLive", "ServerReady")),
        *(f"/{HEALTH_SERVICE}/{call}" for call in ("Check", "Watch")),
    }
)
TOLD_S = 0.25
LAST_S = 1.0  # for the last answers to go out


class GrpcServer:
    """One server. Call `start` once, on the loop that the dataplane is used from, and `stop` at the end."""

    def __init__(
        self,
        service: InferenceService,
        dataplane: DataPlane,
        guard: Guard,
        admission: Admission,
        max_message_bytes: int,
        max_calls: int,
    ) -> None:
        """`max_calls` are taken at a time, streams included, and the rest is refused at once. Raises BadInput for a limit that
        gRPC does not have."""
        if not 0 < max_message_bytes <= MAX_MESSAGE_BYTES:
            raise BadInput(f"must be 1 to {MAX_MESSAGE_BYTES} bytes; got {max_message_bytes}", where="max_grpc_message_bytes")
        self._service = service
        self._health = Health(dataplane, guard, SERVICE, admission.ending)
        self._guard = guard
        self._admission = admission
        self._max_calls = max_calls
        self._max_message_bytes = max_message_bytes
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str) -> int:
        """Listens at `HOST:PORT`, or `unix:PATH`; returns the port, which is a free one where 0 was asked for. Raises
        RuntimeError where it can't be had."""
        limits = [(f"grpc.max_{way}_message_length", self._max_message_bytes) for way in ("receive", "send")]
        limits += [(f"grpc.{which}_metadata_size", METADATA_MOST_BYTES) for which in ("max", "absolute_max")]
        server = grpc.aio.server(
            interceptors=[Admitting(self._guard, OPEN)],
            options=[*limits, ("grpc.so_reuseport", 0)],
            maximum_concurrent_rpcs=self._max_calls,
        )
        server.add_generic_rpc_handlers((self._service.handlers(), self._health.handlers()))
        reflection.enable_server_reflection((SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME), server, pool=_reflected())
        port: int = server.add_insecure_port(address)
        await server.start()
        self._server = server
        return port

    async def stop(self, within_s: float) -> None:
        """Lets calls under way end within so many seconds; the admission is ending, and refuses new ones. Safe where it was never
        started.

        A call that reaches grpc.aio as it stops is dropped: it never comes to be handled, and is waited for in vain. So it stops
        when those that were taken are answered, and when callers that go on have been told.
        """
        if self._server is not None:
            await asyncio.sleep(min(TOLD_S, within_s))
            await self._admission.emptied(within_s)
            await self._server.stop(min(LAST_S, within_s))


def _reflected() -> Any:
    """The pool that reflection reads: our messages' own, with the other services on the port added."""
    pool: Any = pb.DESCRIPTOR.pool
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool
