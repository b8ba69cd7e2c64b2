"""uvicorn on a loop and a socket of ours, for all HTTP that is not in a hurry."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cluster.errors import Unreachable
from deployments.gateway.http.app import GatewayApp
from deployments.gateway.http.server.connection import BACKLOG

KEEP_ALIVE_S = 20  # of idle connections


class HttpServer:
    """One server of an application."""

    def __init__(self, app: GatewayApp) -> None:
        self._app = app
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, listening: socket.socket, *, behind_door: bool) -> None:
        """Takes connections from a socket that listens, and is closed by `stop`. Raises Unreachable where it does not start."""
        config = uvicorn.Config(
            self._app,
            http=_HeadOnly,
            ws="none",  # the application says so, as an answer to HTTP
            lifespan="off",
            log_config=None,
            log_level="error",  # warnings are of what callers send
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=BACKLOG,
            # The door alone reaches its sockets, and takes away what callers say of this.
            proxy_headers=behind_door,
            forwarded_allow_ips="*" if behind_door else None,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait((self._serving, up), return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            raise Unreachable("uvicorn did not start", where="gateway", remedy="see its log") from self._serving.exception()

    async def stop(self, within_s: float) -> None:
        """Closes idle connections, and the others with their answers, or after so many seconds. Safe where it never
        started."""
        if self._server is not None and self._serving is not None:
            self._server.config.timeout_graceful_shutdown = max(1, math.ceil(within_s))
            self._server.should_exit = True
            await asyncio.shield(self._serving)


class _HeadOnly(HttpToolsProtocol):
    """Headers end with the head. httptools tells of the trailers of a body in chunks as if they were some too, and no door takes
    away or sets what stands there: a caller could say that he is another gateway, or has a certificate."""

    _in_head = False

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_head = False
        super().on_headers_complete()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by `serve`."""
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are the process's own affair."""
        yield
