"""The short way in: from the replica's own HTTP server straight to the gateway's application.

Serve's handling of a request (ids, metrics, a queue, a task that watches the client) takes about 125 us, three times what the
HTTP server takes. What of it the gateway needs is here: a bound of requests, and an end to the work of clients that hang up.
Serve offers the place: middleware, named in `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`, around each of its HTTP servers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.middleware import Middleware

from cluster.errors import NoCapacity
from deployments.gateway.http_io import Receive, Scope, Send, error_reply

App = Callable[[Scope, Receive, Send], Awaitable[None]]

SERVES_OWN = "/-/"  # health and routes, asked by HAProxy
WATCH_AFTER_S = 0.1

# The gateway of this process: the middleware is made by Serve, which knows nothing of it. None in every other process.
_lane: DirectLane | None = None


def middlewares() -> list[Middleware]:
    """What Serve puts around its HTTP servers: called by name in each process that has one."""
    return [Middleware(_Fork)]


class _Fork:
    """ASGI middleware: to the gateway where this process holds it, else to Serve."""

    def __init__(self, serve: App) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lane = _lane
        if lane is None or scope["type"] != "http" or scope["path"].startswith(SERVES_OWN) or not lane.here():
            await self._serve(scope, receive, send)
        else:
            await lane.take(scope, receive, send)


class DirectLane:
    """Requests under way on it are in `app`. Opened and closed by the gateway's lifespan, on the loop that runs `app`."""

    def __init__(self, app: App, max_ongoing: int) -> None:
        """More requests than `max_ongoing` at a time are refused with 503."""
        self._app = app
        self._max_ongoing = max_ongoing
        self._ongoing: dict[_Visit, None] = {}  # by arrival
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """From now on this process's HTTP server hands requests over."""
        global _lane
        self._loop = asyncio.get_running_loop()
        self._watching = self._loop.create_task(self._watch())
        _lane = self

    async def close(self) -> None:
        """Serve gets what comes from now on; what is under way goes on. Safe to repeat."""
        global _lane
        if _lane is self:
            _lane = None
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None

    def here(self) -> bool:
        """Whether the loop that runs now is the gateway's: Serve may be told to keep its server on another."""
        return asyncio.get_running_loop() is self._loop

    async def take(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if len(self._ongoing) >= self._max_ongoing:
            refusal = NoCapacity("too many requests are under way", where="gateway", remedy="retry later, or add gateways")
            await error_reply(refusal).send(send)
            return
        if scope["method"] != "HEAD":
            _write_at_once(send)
        visit = _Visit(receive)
        self._ongoing[visit] = None
        try:
            await self._app(scope, visit.receive, send)
        except asyncio.CancelledError:
            if not visit.hung_up:
                raise
        finally:
            del self._ongoing[visit]
            if visit.watcher is not None:
                visit.watcher.cancel()

    async def _watch(self) -> None:
        """Most requests are answered before a watcher would have been worth its while."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_AFTER_S)
            recent_s = loop.time() - WATCH_AFTER_S
            for visit in self._ongoing:
                if visit.begin_s > recent_s:
                    break
                # Before the body is whole, who reads it is told of a client that hangs up.
                if visit.whole and visit.watcher is None:
                    visit.watcher = loop.create_task(visit.await_hang_up())


def _write_at_once(send: Send) -> None:
    """uvicorn writes an answer's head and then its body, and uvloop makes a system call of each, which wakes HAProxy twice.

    Nothing is done where uvicorn is not as we know it, or is still to tell the client to go on.
    """
    cycle: Any = getattr(send, "__self__", None)
    if hasattr(cycle, "transport") and getattr(cycle, "waiting_for_100_continue", True) is False:
        cycle.transport = _HeadWithBody(cycle)


class _HeadWithBody:
    """The transport of one of uvicorn's requests, which keeps the answer's head until its body comes."""

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            self._cycle.transport = self._transport
            self._transport.writelines((self._head, data))
        else:
            self._head = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Visit:
    """One request under way. Compared by identity."""

    __slots__ = ("_receive", "begin_s", "hung_up", "task", "watcher", "whole")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.task: asyncio.Task[Any] | None = asyncio.current_task()
        self.begin_s = asyncio.get_running_loop().time()
        self.whole = False
        self.hung_up = False
        self.watcher: asyncio.Task[None] | None = None

    async def receive(self) -> Any:
        message = await self._receive()
        self.whole = not message.get("more_body", False)
        return message

    async def await_hang_up(self) -> None:
        """Cancels the request's task once its client has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self.hung_up = True
        if self.task is not None:
            self.task.cancel()
