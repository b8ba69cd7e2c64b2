"""HTTP/1.1 for `infer`, of both protocols: requests are read from a connection one by one, and answered in one write each.

The caller is HAProxy, by a socket of this machine, but what it passes on may be anything. Where it closes, its own caller has
gone, and the work ends.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import cast

from cluster.access.callers import Caller
from cluster.errors import BadInput, HeadraceError, NoCapacity
from deployments.gateway.access.credential import Credential, cut
from deployments.gateway.admission import Admission, Lease
from deployments.gateway.http.asgi import TooSlow, head_too_large
from deployments.gateway.http.server.body import Body, ChunkedBody, Pieces, SizedBody, whole_body
from deployments.gateway.http.server.exchange import Exchange, Exchanges, WireAnswer
from deployments.gateway.http.server.head import HEAD_END, RequestHead, parse_head, without_trace
from deployments.observe.traces.traceparent import CallerTrace

# A head over what an exchange takes is refused by it. One that has no end by here is not read on.
HEAD_MOST_BYTES = 128 << 10
BACKLOG = 4096  # of connections that wait to be taken; one too many on a Unix socket is refused at once
KNOWN_HEAD_MOST_BYTES, HEADS_KNOWN = 4096, 256  # callers send the same head again and again: it is looked up, not parsed
# Slower callers would hold what they have sent for as long as they like.
LEAST_BYTES_PER_S, PACE_S = 1024, 10.0
_CLOSE = b"connection: close\r\n\r\n"
_CRLF = b"\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_Reading = tuple[RequestHead, Exchange, Body, Credential, CallerTrace]  # of a request whose body is not whole


class InferServer:
    """Answers on one listening socket. Used on one event loop."""

    def __init__(self, exchanges: Exchanges, admission: Admission) -> None:
        self.exchanges = exchanges
        self.admission = admission
        self.connections: set[_Connection] = set()
        self.known_head = functools.lru_cache(HEADS_KNOWN)(self.head)
        self._server: asyncio.AbstractServer | None = None
        self._none = asyncio.Event()
        self._pacing: asyncio.Task[None] | None = None

    async def start(self, listening: socket.socket) -> None:
        """Takes connections from a socket that listens, and is closed by `stop`. Raises OSError."""
        loop = asyncio.get_running_loop()
        make = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
        self._pacing = loop.create_task(self._pace())
        self._server = await make(lambda: _Connection(self), sock=listening, backlog=BACKLOG)

    async def stop(self, within_s: float) -> None:
        """Takes no more, answers what it has, and gives up what is not answered within the time. Safe to repeat."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self.connections):
            connection.finish()
        try:
            async with asyncio.timeout(within_s):
                while self.connections:
                    self._none.clear()
                    await self._none.wait()
        except TimeoutError:
            for connection in list(self.connections):
                connection.abort()
        finally:
            if self._pacing is not None:
                self._pacing.cancel()

    def head(self, data: bytes) -> tuple[RequestHead, Exchange]:
        """What such a head asks for. Raises BadInput."""
        head = parse_head(data)
        return head, self.exchanges.of(head)

    def over(self, connection: _Connection) -> None:
        """Told by a connection that has ended."""
        self.connections.discard(connection)
        if not self.connections:
            self._none.set()

    async def _pace(self) -> None:
        while True:
            await asyncio.sleep(PACE_S)
            for connection in list(self.connections):
                connection.keep_pace(round(LEAST_BYTES_PER_S * PACE_S))


class _Connection(asyncio.Protocol):
    """One connection: a request at a time. What comes before its turn is kept, and no more is read."""

    def __init__(self, server: InferServer) -> None:
        self._server = server
        self._lease = Lease(server.admission)
        self._unread = Lease(server.admission)  # answers that are written and not taken
        self._transport: asyncio.Transport | None = None
        self._begun = b""  # of a head
        self._begins: object = None  # which head that is
        self._reading: _Reading | None = None
        self._task: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        self._paused = False  # the caller does not read
        self._last = False  # no request is taken after this one
        self._pace: tuple[object, int] = None, 0  # what was being read when this was looked at last, and how much of it was there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Called by the loop: nobody waits for the answer any more."""
        self._transport = self._reading = None
        self._early = []
        if self._task is not None:
            self._task.cancel()
        self._lease.release()
        self._unread.release()
        self._server.over(self)

    def pause_writing(self) -> None:
        """Called by the transport."""
        self._paused = True
        if self._transport is not None:
            self._unread.keep(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Called by the transport."""
        self._paused = False
        self._unread.release()
        if self._early and self._task is None:
            asyncio.get_running_loop().call_soon(self._next)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._task is not None or self._early or self._paused:
            self._hold(data)
        elif self._reading is not None:
            self._read_body(data, self._reading)
        else:
            self._read_head(data)

    def finish(self) -> None:
        """Ends at once where it is idle, else after the request that it has."""
        self._last = True
        if self._transport is not None and self._task is None and self._reading is None and not self._begun:
            self._transport.close()

    def keep_pace(self, least_bytes: int) -> None:
        """Refuses a request of which less than so many bytes have come since this was called last, and which is not whole."""
        had, had_bytes = self._pace
        what, has_bytes = (self._reading[2], self._reading[2].size_bytes) if self._reading else (self._begins, len(self._begun))
        self._pace = what, has_bytes
        if what is None or what is not had or has_bytes - had_bytes >= least_bytes or self._paused:
            return
        error = TooSlow(f"less than {LEAST_BYTES_PER_S} bytes of it came a second", where="request", remedy="send it faster")
        if self._reading is None:
            self._broken(error)
        elif self._reading[2].dropped:
            self.abort()
        else:
            self._refuse(self._reading, self._reading[1].failed(error), closes=True)

    def abort(self) -> None:
        """Ends at once."""
        if self._transport is not None:
            self._transport.abort()

    def _read_head(self, data: bytes) -> None:
        if self._begun:
            data = self._begun + data
        if data[:1] in _CRLF:  # an empty line may stand before a request
            data = data.lstrip(_CRLF)
        end = data.find(HEAD_END, 0, HEAD_MOST_BYTES) + len(HEAD_END)
        if end < len(HEAD_END):
            self._begins = self._begins or object()
            self._begun = data
            if len(data) >= HEAD_MOST_BYTES:
                self._broken(head_too_large(len(data), HEAD_MOST_BYTES))
            return
        self._begun, self._begins = b"", None
        try:
            rest, credential = cut(data[:end])
            rest, trace = without_trace(rest)
            head, exchange = (self._server.known_head if len(rest) <= KNOWN_HEAD_MOST_BYTES else self._server.head)(rest)
        except BadInput as error:
            self._broken(error)
            return
        body = whole_body(data, end, head.body_bytes)
        try:
            caller = exchange.admit(credential)
        except HeadraceError as error:
            self._begin_body(head, exchange, data[end:], credential, trace, exchange.failed(error))
            return
        if body is not None and exchange.refusal(len(body)) is None:
            self._answer(head, exchange, [body], len(body), caller, trace)
        else:
            self._begin_body(head, exchange, data[end:], credential, trace, exchange.refusal(head.body_bytes or 0))

    def _begin_body(
        self,
        head: RequestHead,
        exchange: Exchange,
        data: bytes,
        credential: Credential,
        trace: CallerTrace,
        refusal: WireAnswer | None,
    ) -> None:
        body: Body = ChunkedBody() if head.body_bytes is None else SizedBody(head.body_bytes)
        reading = self._reading = head, exchange, body, credential, trace
        if refusal is not None:
            # Who waits for leave to send may or may not do so after this: where the next request begins can't be told.
            self._refuse(reading, refusal, closes=head.expects)
        elif head.expects and self._transport is not None:
            self._transport.write(_CONTINUE)
        self._read_body(data, reading)

    def _read_body(self, data: bytes, reading: _Reading) -> None:
        _, exchange, body, _, _ = reading
        had_bytes = body.size_bytes
        try:
            rest = body.feed(data)
        except BadInput as error:
            self._broken(error)
            return
        if not body.dropped:
            try:
                refusal = exchange.refusal(body.size_bytes)
                self._lease.hold(body.size_bytes - had_bytes)
            except NoCapacity as error:
                refusal = exchange.failed(error)
            if refusal is not None:
                self._refuse(reading, refusal, closes=False)
        if rest is None:
            return
        self._reading = None
        if rest:
            self._hold(rest)
        if not body.dropped:
            self._answer_in_pieces(reading)
        elif self._last and self._transport is not None:
            self._transport.close()
        elif self._early:
            asyncio.get_running_loop().call_soon(self._next)

    def _answer_in_pieces(self, reading: _Reading) -> None:
        head, exchange, body, credential, trace = reading
        try:
            # Again: it may have taken hours to come, and he may have been revoked.
            caller = exchange.admit(credential)
        except HeadraceError as error:
            self._lease.release()
            self._tell(exchange.failed(error), closes=not head.keeps)
            return
        self._answer(head, exchange, body.pieces, 0, caller, trace)

    def _answer(
        self, head: RequestHead, exchange: Exchange, body: Pieces, more_bytes: int, caller: Caller, trace: CallerTrace
    ) -> None:
        """`more_bytes` of the body are not counted yet."""
        self._task = asyncio.get_running_loop().create_task(self._run(head, exchange, body, more_bytes, caller, trace))

    async def _run(
        self, head: RequestHead, exchange: Exchange, body: Pieces, more_bytes: int, caller: Caller, trace: CallerTrace
    ) -> None:
        # Counted in here: a task that is cancelled before it has begun runs none of this.
        admission = self._server.admission
        try:
            self._lease.hold(more_bytes)
            admission.enter()
        except NoCapacity as error:
            self._task = None
            self._lease.release()
            self._tell(exchange.failed(error), closes=not head.keeps)
            return
        try:
            answer = await exchange.answer(body, self._lease, caller, trace)
        except BaseException:
            self.abort()  # where its caller has not gone, it must not wait for an answer that never comes
            raise
        finally:
            self._task = None
            admission.leave()
            self._lease.release()
        self._tell(answer, closes=not head.keeps)

    def _refuse(self, reading: _Reading, refusal: WireAnswer, *, closes: bool) -> None:
        """Tells so at once. What of the body is still to come is read, so that the caller sees the answer, and dropped."""
        head, _, body, _, _ = reading
        self._last = self._last or not head.keeps
        body.dropped = True
        body.pieces.clear()
        self._lease.release()
        self._tell(refusal, closes=closes)

    def _broken(self, error: BadInput) -> None:
        """Where the next request begins can't be told."""
        self._reading = None
        self._lease.release()
        self._tell(self._server.exchanges.broken(error), closes=True)

    def _tell(self, answer: WireAnswer, *, closes: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        ends = closes or self._last
        # In one piece: a system call carries the bytes all the way into HAProxy's socket, and wakes it.
        transport.writelines((b"%b%b" % (answer.head, _CLOSE if ends else _CRLF), *answer.pieces))
        if closes or (ends and self._reading is None):
            transport.close()
        elif self._early:
            asyncio.get_running_loop().call_soon(self._next)

    def _hold(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._early.append(data)

    def _next(self) -> None:
        """Goes on with what came early, once it may."""
        if self._transport is None or self._transport.is_closing() or self._task is not None or self._paused or not self._early:
            return
        data = b"".join(self._early)
        self._early = []
        self._transport.resume_reading()
        self.data_received(data)
