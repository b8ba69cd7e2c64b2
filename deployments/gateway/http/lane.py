"""The short way in for `infer`: read from the HTTP server's own connections, past its parser and ASGI's messages.

A connection on which uvicorn has served one of the gateway's requests is taken over. Whole, plain `infer` requests are answered
here; everything else uvicorn gets, byte for byte, as if nobody stood between: what is not certain is its own.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from cluster.errors import BadInput, NoCapacity
from deployments.gateway.http.asgi import Reply, Send, error_reply
from deployments.gateway.http.infer import InferHead, read_head

_log = logging.getLogger(__name__)

# Never raises but where it is cancelled.
Infer = Callable[[InferHead, memoryview], Awaitable[Reply]]

HEAD_MOST_BYTES, HEADS_MOST = 4096, 256  # callers send the same head again and again
BODY_MOST_BYTES = 1 << 20  # a larger one is worth uvicorn's flow control
_BEGINS = b"POST /v2/models/"
_END = b"\r\n\r\n"
# Headers that change how the message or the connection is read.
_NOT_PLAIN = frozenset({b"transfer-encoding", b"expect", b"upgrade"})
_REFUSAL = NoCapacity("too many requests are under way", where="gateway", remedy="retry later, or add gateways")
# What is used of uvicorn's protocol, its request under way and its flow control: where one is missing, connections stay its own.
_OF_PROTOCOL = ("transport", "scope", "pipeline", "server_state", "root_path", "timeout_keep_alive", "timeout_keep_alive_handler")
_OF_CYCLE = ("response_complete", "more_body", "scope")
_OF_FLOW = ("write_paused",)


class Room:
    """How many requests may be under way at a time in one gateway, however they came in."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    @property
    def full(self) -> bool:
        """Whether no more may come."""
        return self.taken >= self.most


def too_many() -> Reply:
    """What a request is told for which there is no room."""
    return error_reply(_REFUSAL)


class HttpLane:
    """Answers `infer` requests on connections of uvicorn's. Used on one event loop."""

    def __init__(self, infer: Infer, room: Room) -> None:
        self.infer = infer
        self.room = room
        self.is_open = False

    def take_over(self, send: Send) -> None:
        """Takes the connection over whose request is answered by `send`, where it is one of uvicorn's as we know it."""
        cycle: Any = getattr(send, "__self__", None)
        protocol: Any = getattr(getattr(cycle, "on_response", None), "__self__", None)
        if not _is_known(protocol, cycle) or protocol.root_path or protocol.transport.is_closing():
            return
        if protocol.transport.get_protocol() is protocol:
            _Connection(self, protocol).begin()


def _is_known(protocol: Any, cycle: Any) -> bool:
    """Whether these are uvicorn's, with all that is used of them."""
    if not isinstance(protocol, HttpToolsProtocol) or protocol.cycle is not cycle:
        return False
    parts = ((protocol, _OF_PROTOCOL), (cycle, _OF_CYCLE), (protocol.flow, _OF_FLOW))
    return all(hasattr(part, name) for part, names in parts for name in names)


@dataclass(frozen=True, slots=True)
class _Head:
    infer: InferHead
    body_bytes: int


class _Connection(asyncio.Protocol):
    """One connection, in uvicorn's place."""

    def __init__(self, lane: HttpLane, uvicorn: Any) -> None:
        self._lane = lane
        self._uvicorn = uvicorn
        self._transport: asyncio.Transport = uvicorn.transport
        self._loop = asyncio.get_running_loop()
        self._lent = True  # uvicorn got what came last, and may want more
        self._head: _Head | None = None  # of a request whose body is still to come
        self._pieces: list[bytes] = []
        self._missing_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._early: list[bytes] = []  # what came before its turn
        self._closing = False
        self._answered_s = self._loop.time()

    def begin(self) -> None:
        """Stands where uvicorn's protocol stood: for the transport, for its keep-alive timer, and for a server that stops."""
        self._transport.set_protocol(self)
        self._uvicorn.timeout_keep_alive_handler = self._look_whether_idle
        connections = self._uvicorn.server_state.connections
        connections.discard(self._uvicorn)
        connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._task is not None or self._early or (not self._lent and self._uvicorn.flow.write_paused):
            self._transport.pause_reading()
            self._early.append(data)
        elif self._head is not None:
            self._more(data)
        elif self._lent and not self._uvicorn_is_done():
            self._uvicorn.data_received(data)
        else:
            self._request(data)

    def eof_received(self) -> bool | None:
        """Called by the loop."""
        return self._uvicorn.eof_received()  # type: ignore[no-any-return]

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop: nobody waits for the answer any more."""
        self._uvicorn.server_state.connections.discard(self)
        if self._task is not None:
            self._task.cancel()
        self._uvicorn.connection_lost(exc)
        # Neither keeps the other, by the handler or its timer: the collector looks seldom.
        del self._uvicorn.timeout_keep_alive_handler
        if self._uvicorn.timeout_keep_alive_task is not None:
            self._uvicorn.timeout_keep_alive_task.cancel()
            self._uvicorn.timeout_keep_alive_task = None

    def pause_writing(self) -> None:
        """Called by the transport."""
        self._uvicorn.pause_writing()

    def resume_writing(self) -> None:
        """Called by the transport."""
        self._uvicorn.resume_writing()
        if self._early and self._task is None:
            self._loop.call_soon(self._next)

    def shutdown(self) -> None:
        """Called by a server that stops: the answer under way is the last."""
        if self._task is not None or self._head is not None:
            self._closing = True
        else:
            self._uvicorn.shutdown()

    def _uvicorn_is_done(self) -> bool:
        """Whether it has read its last request to the end and answered it, and nothing of another."""
        cycle = self._uvicorn.cycle
        done: bool = cycle.response_complete and not cycle.more_body and cycle.scope is self._uvicorn.scope
        return done and not self._uvicorn.pipeline

    def _request(self, data: bytes) -> None:
        """`data` begins a request."""
        end = data.find(_END, 0, HEAD_MOST_BYTES) + len(_END)
        head = None
        if end >= len(_END) and data.startswith(_BEGINS) and self._lane.is_open:
            head = _known_head(data[:end])
        self._lent = head is None
        if head is None:
            self._uvicorn.data_received(data)
            return
        got_bytes = len(data) - end
        if got_bytes == head.body_bytes:
            self._answer(head, memoryview(data)[end:])
        elif got_bytes < head.body_bytes:
            self._head, self._pieces, self._missing_bytes = head, [data[end:]], head.body_bytes - got_bytes
        else:
            self._hold(data[end + head.body_bytes :])
            self._answer(head, memoryview(data)[end : end + head.body_bytes])

    def _more(self, data: bytes) -> None:
        """`data` goes on with a body."""
        if len(data) > self._missing_bytes:
            self._hold(data[self._missing_bytes :])
            data = data[: self._missing_bytes]
        self._pieces.append(data)
        self._missing_bytes -= len(data)
        if self._missing_bytes == 0 and self._head is not None:
            head, body = self._head, b"".join(self._pieces)
            self._head, self._pieces = None, []
            self._answer(head, memoryview(body))

    def _hold(self, data: bytes) -> None:
        self._transport.pause_reading()
        self._early.append(data)

    def _next(self) -> None:
        """Goes on with what came early, once it may."""
        if self._transport.is_closing() or self._task is not None or self._uvicorn.flow.write_paused:
            return
        data = b"".join(self._early)
        self._early = []
        self._transport.resume_reading()
        if data:
            self.data_received(data)

    def _answer(self, head: _Head, body: memoryview) -> None:
        if self._lane.room.full:
            self._tell(too_many())
        else:
            self._task = self._loop.create_task(self._score(head.infer, body))

    async def _score(self, head: InferHead, body: memoryview) -> None:
        room = self._lane.room
        room.taken += 1
        try:
            reply = await self._lane.infer(head, body)
        except asyncio.CancelledError:
            self._transport.close()  # where its client has not hung up, it must not wait for an answer that never comes
            raise
        finally:
            room.taken -= 1
            self._task = None
        self._tell(reply)

    def _tell(self, reply: Reply) -> None:
        if self._transport.is_closing():
            return
        headers = [*self._uvicorn.server_state.default_headers, *reply.all_headers()]
        if self._closing:
            headers.append((b"connection", b"close"))
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        # In one piece: a system call carries the bytes all the way into HAProxy's socket, and wakes it.
        self._transport.writelines((b"%b%b\r\n" % (STATUS_LINE[reply.status], lines), reply.body))
        self._answered_s = self._loop.time()
        if self._closing:
            self._transport.close()
        elif self._early:
            self._loop.call_soon(self._next)

    def _look_whether_idle(self) -> None:
        """In place of uvicorn's handler, whose timer is not stopped by the requests that are answered here."""
        if self._transport.is_closing():
            return
        timeout_s: float = self._uvicorn.timeout_keep_alive
        at_work = self._task is not None or self._head is not None
        left_s = timeout_s if at_work else self._answered_s + timeout_s - self._loop.time()
        if left_s <= 0:
            self._transport.close()
        else:
            self._uvicorn.timeout_keep_alive_task = self._loop.call_later(left_s, self._look_whether_idle)


@functools.lru_cache(HEADS_MOST)
def _known_head(data: bytes) -> _Head | None:
    """The head of an `infer` request with a body of a known, modest length; None where it is anything else."""
    found = _Found()
    parser = httptools.HttpRequestParser(found)
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    headers = found.headers
    length = headers.get(b"content-length", b"")
    plain = found.is_whole and not found.twice and _NOT_PLAIN.isdisjoint(headers)
    stays = parser.get_http_version() == "1.1" and headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
    if not plain or not stays or not length.isdigit() or not 0 < int(length) <= BODY_MOST_BYTES:
        return None
    match found.url.split(b"/"):
        case [b"", b"v2", b"models", model, b"infer"]:
            version = b""
        case [b"", b"v2", b"models", model, b"versions", version, b"infer"] if version:
            pass
        case _:
            return None
    if not model or not found.url.isascii() or any(mark in found.url for mark in b"%?#;"):
        return None
    try:
        return _Head(read_head(headers, model.decode(), version.decode() or None), int(length))
    except BadInput:
        return None  # uvicorn's way tells


class _Found:
    """What the parser saw."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.twice = False
        self.is_whole = False

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        name = name.lower()
        self.twice |= name in self.headers
        self.headers[name] = value

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.is_whole = True
