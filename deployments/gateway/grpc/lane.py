"""The short way in for `ModelInfer`: HAProxy speaks HTTP/2 with the callers, and hands their calls over as HTTP/1.1.

To take a call and answer it costs grpc.aio 100 us, HAProxy and this together 30. HAProxy is the only caller, by a socket of this
machine: what it hands over is well-formed HTTP, but the message in it may be anything.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import urllib.parse
import uuid
from collections.abc import Awaitable, Callable
from typing import cast

import grpc
import httptools

from cluster.errors import BadInput
from deployments.gateway.grpc.calls import Calls
from deployments.gateway.grpc.errors import Status, fault_of, status_of
from deployments.gateway.grpc.service import LEAST_S, ROUTING_KEY

_log = logging.getLogger(__name__)

# A call's message, routing key and time. Raises HeadraceError.
Infer = Callable[[memoryview, bytes | None, float | None], Awaitable[bytes]]

PREFIX_BYTES = 5  # before a message: a byte that is 1 where it is compressed, and 4 with its length
NAME_BYTES = 107  # of an abstract socket: HAProxy fills its names up with zeros
BACKLOG = 1024
HEAD_MOST_BYTES = 16 << 10  # as much as grpc.aio takes
_KEY = ROUTING_KEY.encode()
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n"
_OK = b"\r\n0\r\ngrpc-status: 0\r\n\r\n"
_NOT_ESCAPED = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class GrpcLane:
    """Serves the calls that HAProxy hands over. Used on one event loop."""

    def __init__(self, infer: Infer, calls: Calls, max_message_bytes: int, max_calls: int) -> None:
        """`max_calls` are taken at a time, and none once `calls` is ending: the rest is refused at once."""
        self._infer = infer
        self._calls = calls
        self._max_message_bytes = max_message_bytes
        self._max_calls = max_calls
        self._under_way = 0
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> str:
        """Listens on a socket without a file; its name. Raises OSError."""
        name = f"headrace-grpc-{uuid.uuid4().hex}"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listening.bind(b"\0" + name.encode().ljust(NAME_BYTES, b"\0"))
            make = asyncio.get_running_loop().create_unix_server
            self._server = await make(lambda: _Connection(self), sock=listening, backlog=BACKLOG)
        except BaseException:
            listening.close()
            raise
        return name

    async def close(self) -> None:
        """Takes no more connections. Safe to repeat."""
        if self._server is not None:
            self._server.close()

    def too_large(self, message_bytes: int) -> Status | None:
        """What a message of at least so many bytes is told, None where it is taken."""
        if message_bytes <= self._max_message_bytes:
            return None
        text = f"the message has {message_bytes} bytes or more; {self._max_message_bytes} are taken"
        return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text)

    async def answer(self, body: bytes, key: bytes | None, timeout_s: float | None) -> bytes | Status:
        """The answer to a call. Never raises but where it is cancelled."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        if self._under_way >= self._max_calls:
            return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls are under way")
        self._under_way += 1
        try:
            with self._calls:
                return await self._infer(_message(body), key, None if timeout_s is None else max(timeout_s, LEAST_S))
        except Exception as error:  # noqa: BLE001 (`fault_of` logs it)
            return status_of(fault_of("ModelInfer", error), None if end_s is None else end_s - time.monotonic())
        finally:
            self._under_way -= 1


class _Connection(asyncio.Protocol):
    """One of HAProxy's: a call at a time."""

    def __init__(self, lane: GrpcLane) -> None:
        self._lane = lane
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._begin()

    def _begin(self) -> None:
        self._pieces: list[bytes] = []
        self._head_bytes = self._body_bytes = 0
        self._refused: Status | None = None
        self._key: bytes | None = None
        self._timeout: bytes | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Called by the loop: HAProxy closes where its caller gave the call up."""
        self._transport = None
        del self._parser  # it has this: neither keeps the other for the collector
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            _log.exception("HAProxy's request can't be read")
            if self._transport is not None:
                self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser. HAProxy gives names in lower case."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_MOST_BYTES and self._refused is None:
            text = f"the call's metadata has more than {HEAD_MOST_BYTES} bytes"
            self._refused = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        if name == _KEY and self._key is None:
            self._key = value
        elif name == b"grpc-timeout":
            self._timeout = value

    def on_body(self, piece: bytes) -> None:
        """Called by the parser."""
        self._body_bytes += len(piece)
        if self._refused is None:
            self._refused = self._lane.too_large(self._body_bytes - PREFIX_BYTES)
            self._pieces.append(piece)
        else:
            self._pieces.clear()  # read to its end all the same: HAProxy gives the answer on when it has sent everything

    def on_message_complete(self) -> None:
        """Called by the parser."""
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        told = self._refused
        key, timeout = self._key, self._timeout
        self._begin()
        if told is not None:
            self._tell(told)
        else:
            self._task = asyncio.get_running_loop().create_task(self._answer(body, key or None, timeout))

    async def _answer(self, body: bytes, key: bytes | None, timeout: bytes | None) -> None:
        try:
            timeout_s = None if timeout is None else _seconds(timeout)
        except BadInput as error:
            self._tell(status_of(error, None))
            return
        try:
            self._tell(await self._lane.answer(body, key, timeout_s))
        except asyncio.CancelledError:
            if self._transport is not None:
                self._transport.abort()  # HAProxy still waits: it must not do so for ever
            raise

    def _tell(self, told: bytes | Status) -> None:
        if self._transport is None:
            return
        if isinstance(told, bytes):
            size = len(told)
            self._transport.writelines((b"%b%x\r\n\0%b" % (_HEAD, PREFIX_BYTES + size, size.to_bytes(4, "big")), told, _OK))
        else:
            self._transport.write(b"%b0\r\n%b\r\n" % (_HEAD, _trailers(told)))


def _message(body: bytes) -> memoryview:
    """The one message of a unary call. Raises BadInput."""
    size = len(body) - PREFIX_BYTES
    if size < 0 or body[0] != 0 or int.from_bytes(body[1:PREFIX_BYTES], "big") != size:
        raise BadInput("it must be one message, not compressed", where="request")
    return memoryview(body)[PREFIX_BYTES:]


def _seconds(timeout: bytes) -> float:
    """What `grpc-timeout` says. Raises BadInput."""
    digits, unit = timeout[:-1], timeout[-1:]
    if not digits.isdigit() or len(digits) > 8 or unit not in _UNIT_S:
        raise BadInput(f"it must be 1 to 8 digits and one of HMSmun; got {timeout[:80]!r}", where="grpc-timeout")
    return int(digits) * _UNIT_S[unit]


def _trailers(status: Status) -> bytes:
    code: int = status.code.value[0]
    text = urllib.parse.quote(status.text, safe=_NOT_ESCAPED)
    lines = [("grpc-status", str(code)), ("grpc-message", text), *status.hints]
    return "".join(f"{name}: {value}\r\n" for name, value in lines).encode()
