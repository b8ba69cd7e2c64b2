"""HTTP in and out over bare ASGI: headers, a bounded body, an answer, and the status of each error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.error_wire import to_wire
from cluster.errors import (
    BadArtifact,
    BadInput,
    Conflict,
    EngineFailure,
    Forbidden,
    HeadraceError,
    NoCapacity,
    NotFound,
    OverQuota,
    TooLarge,
    Unauthenticated,
    Unreachable,
)
from deployments.gateway.admission import Lease
from deployments.gateway.dataplane import OUR_FAULT
from deployments.gateway.http.callers import ForeignCaller
from deployments.gateway.http.server.body import Pieces, add_piece
from deployments.gateway.http.server.head import DOORS_OWN
from deployments.gateway.large import LARGE_BYTES, LargeWork
from deployments.gateway.protocol.compression import inflate

_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

RETRY_AFTER_S = b"1"

HEAD_MOST_BYTES = 16 << 10
BOM = b"\xef\xbb\xbf"  # some editors and shells write it


class NotOffered(BadInput):
    """A part of the protocol that this server does without."""


class HeadTooLarge(TooLarge):
    """A request's path and headers are over the limit."""


class TooSlow(BadInput):
    """A request comes slower than is waited for."""


STATUS: dict[type[HeadraceError], int] = {
    BadInput: 400,
    TooLarge: 413,
    ForeignCaller: 403,
    HeadTooLarge: 431,
    TooSlow: 408,
    NotOffered: 501,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    BadArtifact: 422,
    EngineFailure: 500,
    OverQuota: 429,
    NoCapacity: 503,
    Unreachable: 503,
}


# What else is told with a status: when to try again, or what to send. A browser asks for a name and a password then: a key's.
_RETRY = ((b"retry-after", RETRY_AFTER_S),)
_HINTS: dict[int, tuple[tuple[bytes, bytes], ...]] = {
    401: ((b"www-authenticate", b'Bearer realm="headrace"'), (b"www-authenticate", b'Basic realm="headrace"')),
    429: _RETRY,
    503: _RETRY,
}


def head_too_large(size_bytes: int, most_bytes: int = HEAD_MOST_BYTES) -> HeadTooLarge:
    """What a head of so many bytes is told."""
    what = f"its path and headers have {size_bytes} bytes, and {most_bytes} are taken"
    return HeadTooLarge(what, where="request", remedy="send fewer headers, or what they hold in the body")


def body_too_large(most_bytes: int) -> TooLarge:
    """What a body of more bytes is told."""
    return TooLarge(f"the body is over {most_bytes} bytes", where="request", remedy="send fewer rows a request")


class Disconnected(Exception):
    """The client went away before its request was whole: there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """Its own and those that describe its body."""
        return [(b"content-type", self.content_type), (b"content-length", b"%d" % len(self.body)), *self.headers]

    def with_headers(self, *more: tuple[bytes, bytes]) -> Reply:
        """This, with those too."""
        return Reply(self.status, self.body, self.content_type, (*self.headers, *more))

    async def send(self, send: Send) -> None:
        """Writes it out."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.all_headers()})
        await send({"type": "http.response.body", "body": self.body})


class Request:
    """One request: its headers by lower-case name, and its body on demand, whose bytes `lease` holds. `gone` tells whether its
    caller has hung up after that."""

    __slots__ = ("_large", "_limit_bytes", "_receive", "_whole", "gone", "headers", "lease", "method", "path")

    def __init__(self, scope: Scope, receive: Receive, limit_bytes: int, lease: Lease, large: LargeWork) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.lease = lease
        self.gone = False
        self._large = large
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._whole = asyncio.Event()

    def check_head(self) -> None:
        """Raises HeadTooLarge."""
        own = ((name, value) for name, value in self.headers.items() if not name.startswith(DOORS_OWN))
        size = len(self.path) + sum(len(name) + len(value) for name, value in own)
        if size > HEAD_MOST_BYTES:
            raise head_too_large(size)

    def header(self, name: bytes) -> str | None:
        """A header's text, or None."""
        return text_of(self.headers, name)

    async def body(self) -> bytes:
        """The whole body, inflated. Raises what `raw_body` does, and BadInput for a broken encoding."""
        encoding = (self.header(b"content-encoding") or "").lower()
        data = b"".join(await self.raw_body())
        return await inflated(data, encoding, self._limit_bytes, self.lease, self._large)

    async def raw_body(self) -> Pieces:
        """The whole body as it came, in pieces. Raises TooLarge, NoCapacity and Disconnected."""
        declared = self.header(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > self._limit_bytes:
            raise body_too_large(self._limit_bytes)
        pieces: Pieces = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._limit_bytes:
                raise body_too_large(self._limit_bytes)
            self.lease.hold(len(piece))
            add_piece(pieces, piece)
            if not message.get("more_body", False):
                break
        self._whole.set()
        return pieces or [b""]

    async def until_gone(self) -> bool:
        """Waits until the body was read, and then until its caller has hung up; False where the server tells something else."""
        await self._whole.wait()
        self.gone = (await self._receive())["type"] == "http.disconnect"
        return self.gone


async def inflated(data: bytes, encoding: str, limit_bytes: int, lease: Lease, large: LargeWork) -> bytes:
    """A body without its Content-Encoding, held by `lease`. Raises BadInput, TooLarge and NoCapacity."""
    if encoding in ("", "identity"):
        return data
    whole = None
    if len(data) <= LARGE_BYTES:
        try:
            whole = inflate(data, encoding, min(LARGE_BYTES, limit_bytes))
        except TooLarge:
            if limit_bytes <= LARGE_BYTES:
                raise
    if whole is None:
        whole = await large.run(inflate, data, encoding, limit_bytes)
    lease.hold(len(whole))
    return whole


def json_object(body: bytes, where: str) -> dict[str, Any]:
    """The object that a body holds; an empty one where it is empty. Raises BadInput."""
    try:
        document = orjson.loads(body.removeprefix(BOM)) if body else {}
    except orjson.JSONDecodeError as error:
        raise BadInput(f"not valid JSON: {error}", where=where) from None
    if not isinstance(document, dict):
        raise BadInput("the JSON must be an object", where=where)
    return document


def text_of(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    """A header's text, or None."""
    value = headers.get(name)
    return None if value is None else value.decode("latin-1").strip()


def json_reply(document: Any, status: int = 200) -> Reply:
    """An answer in JSON."""
    return Reply(status, orjson.dumps(document))


def ready_reply(document: Any, ready: bool) -> Reply:
    """Whether something is ready, for clients that look at the status and for those that read."""
    return _with_hints(json_reply(document, 200 if ready else 503))


def status_of(error: HeadraceError) -> int:
    """The HTTP status of an error's kind."""
    return next(STATUS[kind] for kind in (*type(error).__mro__, EngineFailure) if kind in STATUS)


def error_reply(error: HeadraceError) -> Reply:
    """The protocol's error: one string."""
    return _with_hints(json_reply({"error": str(error)}, status_of(error)))


def reply_to(error: Exception, what: str) -> Reply:
    """What a request is told that ended so; logged where it was not the request's fault."""
    if not isinstance(error, HeadraceError):
        _log.error("%s", what, exc_info=error)
        return json_reply({"error": OUR_FAULT}, 500)
    reply = error_reply(error)
    if reply.status == 500:
        _log.error("%s: %s", what, error)
    return reply


def wrong_method_reply(method: str) -> Reply:
    """What is told where the path exists, but not for this method."""
    return json_reply({"error": f"{method} is not possible here"}, 405)


def control_error_reply(error: HeadraceError) -> Reply:
    """A control command's error, from which its client builds the same error again."""
    return _with_hints(json_reply({"error": to_wire(error)}, status_of(error)))


def _with_hints(reply: Reply) -> Reply:
    hints = _HINTS.get(reply.status)
    return reply if hints is None else Reply(reply.status, reply.body, reply.content_type, hints)
