"""A gateway without models: a slot of a real door, and two tiny servers, which say who they are and what they were asked.

A program: `python -m tests.support.door_gateway NODE SETTINGS`. A path with `slow` is answered after a while,
`deadly` ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys

from deployments.gateway.door.opening import Door
from deployments.gateway.door.settings import DoorSettings

SLOW_S = 0.5
_GRPC = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n"


async def main(node: str, settings: DoorSettings) -> None:
    """Serves until it is killed, or told to end by the end of its standard input."""
    door = Door.enter(settings, node)
    door.watch()
    servers = [
        await asyncio.start_unix_server(_Server(door.slot.number, way).serve, sock=listening, limit=1 << 20)
        for way, listening in (("http", door.slot.http), ("infer", door.slot.infer))
    ]
    await door.opened()
    sys.stdout.write(json.dumps({"slot": door.slot.number}) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        server.close()
    await door.leave()


class _Server:
    def __init__(self, slot: int, way: str) -> None:
        self._slot, self._way = slot, way

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines if line)
                body = await _body(reader, headers)
                if "slow" in first:
                    await asyncio.sleep(SLOW_S)
                if "deadly" in first:
                    os._exit(9)
                told = json.dumps(
                    {"slot": self._slot, "way": self._way, "asked": first, "bytes": body, "headers": headers}
                ).encode()
                if headers.get("content-type", "").startswith("application/grpc"):
                    message = b"\0" + len(told).to_bytes(4, "big") + told
                    writer.write(_GRPC + b"%x\r\n%b\r\n0\r\ngrpc-status: 0\r\n\r\n" % (len(message), message))
                else:
                    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(told)
                    writer.write(head + told)
                await writer.drain()
        writer.close()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> int:
    if headers.get("transfer-encoding") != "chunked":
        return len(await reader.readexactly(int(headers.get("content-length", "0"))))
    size = 0
    while length := int(await reader.readline(), 16):
        size += len(await reader.readexactly(length))
        await reader.readline()
    await reader.readline()
    return size


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], DoorSettings.from_document(json.loads(sys.argv[2]))))
