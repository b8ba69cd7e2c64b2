"""grpc.health.v1: the whole server by the empty name or the service's, a model by its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from cluster.errors import HeadraceError, NotFound
from deployments.gateway.access.credential import in_metadata
from deployments.gateway.access.guard import Guard
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.grpc.errors import abort
from deployments.gateway.protocol.grpc_codec import parse

HEALTH_SERVICE: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
LOOK_S = 1.0

Context = grpc.aio.ServicerContext[Any, Any]
Status = health_pb2.HealthCheckResponse


class Health:
    """Tells what the dataplane says; keeps no state of its own that could go stale."""

    def __init__(self, dataplane: DataPlane, guard: Guard, service: str, ending: asyncio.Event) -> None:
        """`ending` is set when the server begins to stop."""
        self._dataplane = dataplane
        self._guard = guard
        self._service = service
        self._ending = ending

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a grpc.aio server is given."""
        methods: dict[str, Any] = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        return grpc.method_handlers_generic_handler(HEALTH_SERVICE, methods)

    async def _check(self, data: bytes, context: Context) -> bytes:
        try:
            request = parse(health_pb2.HealthCheckRequest, data)
            return Status(status=await self._status(request.service, context)).SerializeToString()
        except HeadraceError as error:
            await abort(context, error)

    async def _watch(self, data: bytes, context: Context) -> None:
        """Sends the status, and again at each change; SERVICE_UNKNOWN for a name that is not served, which may come."""
        try:
            request = parse(health_pb2.HealthCheckRequest, data)
        except HeadraceError as error:
            await abort(context, error)
        told: int | None = None
        while not self._ending.is_set():
            try:
                status = await self._status(request.service, context)
            except NotFound:
                status = Status.SERVICE_UNKNOWN
            except HeadraceError as error:
                await abort(context, error)
            if status != told:
                told = status
                await context.write(Status(status=status).SerializeToString())
            # Of the table that is here: it costs next to nothing.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._ending.wait()
        await context.write(Status(status=Status.NOT_SERVING).SerializeToString())

    async def _status(self, service: str, context: Context) -> Any:
        """Of the server for anybody, of a model for who may see it. Raises NotFound and Unauthenticated."""
        if service in ("", self._service):
            ready = await self._dataplane.ready()
        else:
            credential, address = in_metadata(context.invocation_metadata(), behind_door=self._guard.behind_door)
            ready = await self._dataplane.model_ready(service, caller=self._guard.admitted(credential, address))
        return Status.SERVING if ready else Status.NOT_SERVING
