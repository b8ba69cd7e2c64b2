"""While no gateway is up: holds requests, and lets HAProxy ask again for them when one is. The last server of HAProxy's `_last`.

A request is held as the bytes that HAProxy sends, unread: they go back to it, at `again.sock`, and it knows where they belong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from deployments.gateway.door.configuration import AGAIN, ERRORS, GRPC_UNAVAILABLE, HELD, NOT_DELIVERED
from deployments.gateway.door.health import is_up
from deployments.gateway.door.settings import DoorSettings

LOOK_S = 0.02  # between two looks for a gateway, while a request waits for one
# Who comes here has often just seen a gateway end. Its socket may take connections for milliseconds more: what it takes is lost.
SETTLES_S = 0.1
PIECE_BYTES = 64 << 10
ANSWERS_WITHIN_S = 1.0  # where the keeper ends
_ERROR = json.dumps({"error": ERRORS[503]}).encode()
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n%b: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (NOT_DELIVERED.encode(), len(_ERROR), _ERROR)
)
_GRPC_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/grpc\r\ngrpc-status: %d\r\ngrpc-message: %b\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n" % (GRPC_UNAVAILABLE, ERRORS[503].encode())
)
_GRPC = b"\r\ncontent-type: application/grpc"
_NOT_DELIVERED = NOT_DELIVERED.encode()


@dataclass(slots=True)
class _Bytes:
    """How many there are so far."""

    held: int = 0


class Holding:
    """Requests that wait for a gateway. Used on one event loop."""

    def __init__(self, settings: DoorSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._server: asyncio.Server | None = None
        self._visits: set[asyncio.Task[None]] = set()
        self._bytes = _Bytes()
        self._up = asyncio.Event()
        self._closing = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self.waiting = 0  # requests

    async def open(self) -> None:
        """Listens. Raises OSError."""
        path = self._folder / HELD
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._visit, path, backlog=4096, limit=PIECE_BYTES)

    async def close(self) -> None:
        """Refuses all that wait, and ends what is passed on but not answered within a second. Safe to repeat."""
        if self._server is not None:
            self._server.close()
        self._closing.set()
        if self._visits:
            await asyncio.wait(set(self._visits), timeout=ANSWERS_WITHIN_S)
        for task in (*self._visits, *([] if self._looking is None else [self._looking])):
            task.cancel()

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast(asyncio.Task[None], asyncio.current_task())
        self._visits.add(task)
        held = bytearray()
        try:
            # OSError: HAProxy has gone, or its caller has
            with self._counted(), contextlib.suppress(OSError):
                if self.waiting > self._settings.held_most:
                    held += await reader.read(PIECE_BYTES)
                    self._bytes.held += len(held)
                elif await self._pass_on(reader, writer, held):
                    return
                writer.write(_GRPC_REFUSAL if _GRPC in held.partition(b"\r\n\r\n")[0] else _REFUSAL)
                await writer.drain()
        finally:
            self._bytes.held -= len(held)
            self._visits.discard(task)
            writer.close()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.waiting += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        try:
            yield
        finally:
            self.waiting -= 1

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: bytearray) -> bool:
        """Whether it was answered, or its caller went away; False where it must be refused."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._settings.held_s
        while (left_s := end_s - loop.time()) > 0:
            if not await self._hold(reader, held, left_s):
                return reader.at_eof()
            if await self._ask(reader, writer, held):
                return True
            self._up.clear()  # it was not up after all
        return False

    async def _hold(self, reader: asyncio.StreamReader, held: bytearray, within_s: float) -> bool:
        """Reads on until a gateway is up. False where there is no room or no time, or the caller has gone."""
        up, closing = asyncio.ensure_future(self._seen_up()), asyncio.ensure_future(self._closing.wait())
        end_s = asyncio.get_running_loop().time() + within_s
        try:
            while not up.done():
                piece = asyncio.ensure_future(reader.read(PIECE_BYTES))
                left_s = end_s - asyncio.get_running_loop().time()
                await asyncio.wait({up, closing, piece}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if not piece.done():
                    piece.cancel()
                    await asyncio.gather(piece, return_exceptions=True)
                    return up.done()
                got = piece.result()
                held += got
                self._bytes.held += len(got)
                if not got or self._bytes.held > self._settings.held_bytes:
                    return False
            return True
        finally:
            up.cancel()
            closing.cancel()

    async def _seen_up(self) -> None:
        await asyncio.sleep(SETTLES_S)
        await self._up.wait()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: bytearray) -> bool:
        """Whether it was answered, well or badly, or its caller has gone; False where it can be asked again."""
        try:
            theirs, ours = await asyncio.open_unix_connection(self._folder / AGAIN, limit=PIECE_BYTES)
        except OSError:
            return False
        ours.write(held)
        rest = _Bytes()
        more = asyncio.ensure_future(_copy(reader, ours, rest))
        answer = asyncio.ensure_future(_answer(theirs, writer))
        try:
            done, _ = await asyncio.wait({more, answer}, return_when=asyncio.FIRST_COMPLETED)
            refusal = answer.result() if answer in done else b""
            if refusal and not rest.held:
                return False
            writer.write(refusal)  # what has come in meanwhile is not held
            return True
        finally:
            more.cancel()
            answer.cancel()
            await asyncio.gather(more, answer, return_exceptions=True)
            ours.close()

    async def _look(self) -> None:
        """Asks HAProxy whether a gateway is up, for as long as somebody waits."""
        while self.waiting:
            if await is_up(self._folder):
                self._up.set()
            else:
                self._up.clear()
            await asyncio.sleep(LOOK_S)
        self._up.clear()


def _is_refusal(first: bytes) -> bool:
    head = first.partition(b"\r\n\r\n")[0]
    return b" 503 " in head.partition(b"\r\n")[0] and _NOT_DELIVERED in head


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Copies the answer. Returns a refusal instead: no gateway has got the request."""
    first = await reader.read(PIECE_BYTES)
    if _is_refusal(first):
        return first
    writer.write(first)
    await _copy(reader, writer, _Bytes())
    return b""


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: _Bytes) -> None:
    while piece := await reader.read(PIECE_BYTES):
        count.held += len(piece)
        writer.write(piece)
        await writer.drain()
