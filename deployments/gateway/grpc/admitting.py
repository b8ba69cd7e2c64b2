"""Before each call that comes to grpc.aio, whatever service it is of: who brings nothing good gets no further."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from cluster.errors import HeadraceError
from deployments.gateway.access.credential import in_metadata
from deployments.gateway.access.guard import Guard
from deployments.gateway.grpc.errors import abort

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class Admitting(grpc.aio.ServerInterceptor):
    """Lets those methods through whoever calls, by their whole names: they tell whether the server is up, and no more."""

    def __init__(self, guard: Guard, open_methods: frozenset[str]) -> None:
        self._guard, self._open = guard, open_methods

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Called by grpc.aio."""
        details: Any = handler_call_details
        if details.method not in self._open:
            try:
                self._guard.admitted(*in_metadata(details.invocation_metadata, behind_door=self._guard.behind_door))
            except HeadraceError as error:
                return _refusing(error)
        return await continuation(handler_call_details)


def _refusing(error: HeadraceError) -> Any:
    """Answers before it has read anything."""

    async def answer(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(answer)
