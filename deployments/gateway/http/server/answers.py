"""HTTP's `infer` on a connection of ours, and what is told there to everything else."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

from cluster.access.callers import STRANGER, Caller
from cluster.errors import HeadraceError
from deployments.gateway.access.credential import Credential
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Lease
from deployments.gateway.http.asgi import Reply, body_too_large, error_reply, reply_to
from deployments.gateway.http.infer import HttpInfer, InferHead
from deployments.gateway.http.server.body import Pieces
from deployments.gateway.http.server.exchange import WireAnswer
from deployments.gateway.http.traced import answered, http_span
from deployments.observe.traces.traceparent import CallerTrace

_STATUS_LINE = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Clock:
    """The `date` line of answers, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        """As of now."""
        second = int(time.time())
        if second != self._second:
            self._second, self._line = second, f"date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._line


class HttpAnswers:
    """Writes replies as HTTP/1.1."""

    def __init__(self) -> None:
        self._clock = Clock()

    def of(self, reply: Reply, *, bodiless: bool = False) -> WireAnswer:
        """The answer that a reply is; one to HEAD has no body."""
        more = b"".join([b"%b: %b\r\n" % header for header in reply.headers]) if reply.headers else b""
        head = b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n%b" % (
            _STATUS_LINE[reply.status],
            self._clock.line(),
            reply.content_type,
            len(reply.body),
            more,
        )
        return WireAnswer(head, () if bodiless else (reply.body,))


class HttpExchange:
    """Requests of one `infer`."""

    __slots__ = ("_address", "_answers", "_guard", "_head", "_infer")

    def __init__(self, infer: HttpInfer, head: InferHead, answers: HttpAnswers, guard: Guard, address: bytes) -> None:
        """They come from `address`."""
        self._infer = infer
        self._head = head
        self._answers = answers
        self._guard = guard
        self._address = address

    def admit(self, credential: Credential) -> Caller:
        """See Exchange."""
        return self._guard.admitted(credential, self._address)

    def refusal(self, body_bytes: int) -> WireAnswer | None:
        """See Exchange."""
        most_bytes = self._infer.max_body_bytes
        return None if body_bytes <= most_bytes else self.failed(body_too_large(most_bytes))

    def failed(self, error: HeadraceError) -> WireAnswer:
        """See Exchange."""
        self._infer.failed(self._head, error)
        return self._answers.of(error_reply(error))

    async def answer(self, body: Pieces, lease: Lease, caller: Caller, trace: CallerTrace) -> WireAnswer:
        """See Exchange."""
        tracer = self._infer.dataplane.tracer
        span = http_span(tracer, trace, pinned=self._head.call.version is not None)
        if span is None:
            return self._answers.of(await self._reply(body, lease, caller))
        return self._answers.of(await answered(tracer, span, self._reply(body, lease, caller)))

    async def _reply(self, body: Pieces, lease: Lease, caller: Caller) -> Reply:
        try:
            return await self._infer.answer(self._head, body, lease, caller)
        except Exception as error:  # noqa: BLE001 (`reply_to` logs it)
            return reply_to(error, f"infer of {self._head.call.model}")


class FixedExchange:
    """Requests that all get the same reply, whatever their bodies."""

    __slots__ = ("_answers", "_bodiless", "_reply")

    def __init__(self, reply: Reply, answers: HttpAnswers, *, bodiless: bool = False) -> None:
        self._reply = reply
        self._answers = answers
        self._bodiless = bodiless

    def admit(self, credential: Credential) -> Caller:  # noqa: ARG002
        """See Exchange. It is told to anybody."""
        return STRANGER

    def refusal(self, body_bytes: int) -> WireAnswer | None:  # noqa: ARG002
        """See Exchange."""
        return self._answers.of(self._reply, bodiless=self._bodiless)

    def failed(self, error: HeadraceError) -> WireAnswer:  # noqa: ARG002
        """See Exchange."""
        return self._answers.of(self._reply, bodiless=self._bodiless)

    async def answer(self, body: Pieces, lease: Lease, caller: Caller, trace: CallerTrace) -> WireAnswer:  # noqa: ARG002
        """See Exchange."""
        return self._answers.of(self._reply, bodiless=self._bodiless)
