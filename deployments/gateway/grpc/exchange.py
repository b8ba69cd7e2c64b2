"""The short way in for `ModelInfer`: HAProxy speaks HTTP/2 with the callers, and hands their calls over as HTTP/1.1.

To take a call and answer it costs grpc.aio 100 us, HAProxy and this together 30.
"""

from __future__ import annotations

import time
import urllib.parse
from typing import Protocol

import grpc

from cluster.access.callers import Caller
from cluster.errors import BadInput, HeadraceError
from deployments.gateway.access.credential import FORWARDED_FOR, Credential
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Lease
from deployments.gateway.grpc.errors import Status, fault_of, status_of
from deployments.gateway.grpc.service import LEAST_S, ROUTING_KEY
from deployments.gateway.http.server.body import Pieces
from deployments.gateway.http.server.exchange import WireAnswer
from deployments.gateway.http.server.head import RequestHead
from deployments.gateway.large import LARGE_BYTES, LargeWork
from deployments.observe.traces.traceparent import CallerTrace

PREFIX_BYTES = 5  # before a message: a byte that is 1 where it is compressed, and 4 with its length
METADATA_MOST_BYTES = 16 << 10  # as much as grpc.aio takes
_KEY = ROUTING_KEY.encode()
_TIMEOUT = b"grpc-timeout"
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n"
_OK = b"\r\n0\r\ngrpc-status: 0\r\n\r\n"
_NOT_ESCAPED = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class ModelInfer(Protocol):
    """What answers a call's message, whoever took it."""

    @property
    def large(self) -> LargeWork:
        """Where large ones are put together."""

    async def infer(
        self, data: memoryview, key: bytes | None, timeout_s: float | None, caller: Caller, trace: CallerTrace
    ) -> bytes:
        """The answering message, to one with this routing key and trace context of that caller, within so much time. Raises
        HeadraceError."""

    def failed(self, model: str, error: BaseException) -> None:
        """Counts a request that ended so before it got to `infer`, as one of the model, or of "" where none was read."""


class GrpcExchange:
    """Calls with certain metadata."""

    __slots__ = ("_address", "_guard", "_key", "_max_message_bytes", "_refused", "_service", "_timeout_s")

    def __init__(self, service: ModelInfer, guard: Guard, head: RequestHead, max_message_bytes: int) -> None:
        self._service = service
        self._guard = guard
        self._max_message_bytes = max_message_bytes
        headers = dict(head.headers)
        self._key = next((value for name, value in head.headers if name == _KEY), None) or None
        self._address = headers.get(FORWARDED_FOR, b"")
        self._refused: Status | None = None
        self._timeout_s: float | None = None
        if head.size_bytes - len(head.path) > METADATA_MOST_BYTES:
            text = f"the call's metadata has more than {METADATA_MOST_BYTES} bytes"
            self._refused = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
            return
        timeout = headers.get(_TIMEOUT)
        try:
            self._timeout_s = None if timeout is None else _seconds(timeout)
        except BadInput as error:
            self._refused = status_of(error, None)

    def admit(self, credential: Credential) -> Caller:
        """See Exchange."""
        return self._guard.admitted(credential, self._address)

    def refusal(self, body_bytes: int) -> WireAnswer | None:
        """See Exchange."""
        if self._refused is not None:
            return _status(self._refused)
        message_bytes = body_bytes - PREFIX_BYTES
        if message_bytes <= self._max_message_bytes:
            return None
        text = f"the message has {message_bytes} bytes or more; {self._max_message_bytes} are taken"
        return _status(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text))

    def failed(self, error: HeadraceError) -> WireAnswer:
        """See Exchange."""
        self._service.failed("", error)
        return _status(status_of(error, self._timeout_s))

    async def answer(
        self,
        body: Pieces,
        lease: Lease,  # noqa: ARG002 (never compressed)
        caller: Caller,
        trace: CallerTrace,
    ) -> WireAnswer:
        """See Exchange."""
        timeout_s = self._timeout_s
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            if sum(map(len, body)) > LARGE_BYTES:
                message = await self._service.large.run(_message, body)
            else:
                message = _message(body)
            left_s = None if timeout_s is None else max(timeout_s, LEAST_S)
            told = await self._service.infer(message, self._key, left_s, caller, trace)
        except Exception as error:  # noqa: BLE001 (`fault_of` logs it)
            return _status(status_of(fault_of("ModelInfer", error), None if end_s is None else end_s - time.monotonic()))
        size = len(told)
        return WireAnswer(_HEAD, (b"%x\r\n\0%b" % (PREFIX_BYTES + size, size.to_bytes(4, "big")), told, _OK))


def _message(body: Pieces) -> memoryview:
    """The one message of a unary call. Raises BadInput."""
    data = memoryview(body[0] if len(body) == 1 else b"".join(body))
    body.clear()
    size = len(data) - PREFIX_BYTES
    if size < 0 or data[0] != 0 or int.from_bytes(data[1:PREFIX_BYTES], "big") != size:
        raise BadInput("it must be one message, not compressed", where="request")
    return data[PREFIX_BYTES:]


def _seconds(timeout: bytes) -> float:
    """What `grpc-timeout` says. Raises BadInput."""
    digits, unit = timeout[:-1], timeout[-1:]
    if not digits.isdigit() or len(digits) > 8 or unit not in _UNIT_S:
        raise BadInput(f"it must be 1 to 8 digits and one of HMSmun; got {timeout[:80]!r}", where="grpc-timeout")
    return int(digits) * _UNIT_S[unit]


def _status(status: Status) -> WireAnswer:
    code: int = status.code.value[0]
    text = urllib.parse.quote(status.text, safe=_NOT_ESCAPED)
    lines = [("grpc-status", str(code)), ("grpc-message", text), *status.hints]
    trailers = "".join(f"{name}: {value}\r\n" for name, value in lines).encode()
    return WireAnswer(_HEAD, (b"0\r\n%b\r\n" % trailers,))
