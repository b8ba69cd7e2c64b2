"""The limit that the gateway is compared with: a plain uvicorn that answers bodies of the same size, behind a door of its own.

A program: `python -m bench.echo PORT`; it says a line once its door is open, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.opening import Door, close_door

PATH = "/v2/models/echo/infer"  # HAProxy treats it as the gateway's


async def echo(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Reads the body and answers as many zero bytes as the header `answer-bytes` says: the least that any gateway can do."""
    while (await receive()).get("more_body"):
        continue
    size = int(dict(scope["headers"]).get(b"answer-bytes", b"0"))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": bytes(size)})


@contextmanager
def echoing(port: int) -> Iterator[None]:
    """An echo behind a door at this port of loopback."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.echo", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            if process.stdout is None or not process.stdout.readline():
                raise RuntimeError("the echo has not started")
            yield
        finally:
            process.communicate()


async def _serve(port: int) -> None:
    from deployments.gateway.deployment import GatewaySettings, door_settings  # imports Ray, which a bench sets up first

    binary, node = usable_haproxy(), uuid.uuid4().hex
    if binary is None:
        raise RuntimeError("there is no HAProxy here, which the echo is to stand behind")
    settings = door_settings(GatewaySettings(http_port=port), str(binary))
    door = Door.enter(settings, node)
    config = uvicorn.Config(echo, lifespan="off", log_level="warning", access_log=False, http="httptools", loop="asyncio")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([door.slot.http, door.slot.infer]))
    await door.opened()
    os.write(sys.stdout.fileno(), b"open\n")
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving
    await door.leave()
    close_door(node)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
