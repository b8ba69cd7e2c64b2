"""The real HAProxy before one gateway's sockets, for tests of what it hands over: HTTP on one port, gRPC on another."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.grpc.service import SERVICE

HAPROXY = usable_haproxy()
_CONFIGURATION = """
global
    nbthread 1
    tune.bufsize 65536
    tune.h2.fe.max-concurrent-streams 1000
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    retries 0
    option abortonclose
    http-reuse always
frontend http
    bind fd@{http}
    use_backend infer if {{ path_reg ^/v2/models/[^/]+(/versions/[^/]+)?/infer$ }}
    default_backend http
frontend grpc
    bind fd@{grpc} proto h2
    use_backend infer if {{ path /{service}/ModelInfer }} !{{ req.hdr(grpc-encoding) -m found }}
    default_backend grpc
backend infer
    server gateway unix@{folder}/infer
backend http
    server gateway unix@{folder}/http
backend grpc
    server gateway unix@{folder}/grpc proto h2
"""


@contextlib.asynccontextmanager
async def haproxy_before(folder: Path) -> AsyncIterator[tuple[int, int]]:
    """Its ports for HTTP and for gRPC, while it runs. The gateway's sockets are `infer`, `http` and `grpc` in `folder`."""
    assert HAPROXY is not None
    with contextlib.ExitStack() as opened:
        http, grpc = (opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        configuration = folder / "haproxy.cfg"
        configuration.write_text(_CONFIGURATION.format(http=http.fileno(), grpc=grpc.fileno(), folder=folder, service=SERVICE))
        command = [HAPROXY, "-db", "-q", "-f", configuration]
        process = opened.enter_context(
            subprocess.Popen(command, pass_fds=(http.fileno(), grpc.fileno()), stderr=subprocess.DEVNULL)
        )
        try:
            yield http.getsockname()[1], grpc.getsockname()[1]
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
