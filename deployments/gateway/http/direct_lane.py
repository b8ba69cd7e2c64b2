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

from deployments.gateway.http.asgi import Receive, Scope, Send
from deployments.gateway.http.lane import HttpLane, Infer, Room, too_many

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

    def __init__(self, app: App, infer: Infer, max_ongoing: int) -> None:
        """More requests than `max_ongoing` at a time are refused with 503. `infer` answers what needs nothing of HTTP."""
        self._app = app
        self._room = Room(max_ongoing)
        self._infers = HttpLane(infer, self._room)
        self._ongoing: dict[_Visit, None] = {}  # by arrival
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """From now on this process's HTTP server hands requests over."""
        global _lane
        self._loop = asyncio.get_running_loop()
        self._watching = self._loop.create_task(self._watch())
        _lane = self
        self._infers.is_open = True

    async def close(self) -> None:
        """Serve gets what comes from now on; what is under way goes on. Safe to repeat."""
        global _lane
        self._infers.is_open = False
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
        self._infers.take_over(send)
        if self._room.full:
            await too_many().send(send)
            return
        visit = _Visit(receive)
        self._ongoing[visit] = None
        self._room.taken += 1
        try:
            await self._app(scope, visit.receive, send)
        except asyncio.CancelledError:
            if not visit.hung_up:
                raise
        finally:
            del self._ongoing[visit]
            self._room.taken -= 1
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
