"""HTTP in and out over bare ASGI: headers, a bounded body, an answer, and the status of each error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.errors import (
    BadArtifact,
    BadInput,
    Conflict,
    EngineFailure,
    HeadraceError,
    NoCapacity,
    NotFound,
    TooLarge,
    Unreachable,
)
from deployments.gateway.http.callers import ForeignCaller
from deployments.gateway.protocol.compression import inflate

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


STATUS: dict[type[HeadraceError], int] = {
    BadInput: 400,
    TooLarge: 413,
    ForeignCaller: 403,
    HeadTooLarge: 431,
    NotOffered: 501,
    NotFound: 404,
    Conflict: 409,
    BadArtifact: 422,
    EngineFailure: 500,
    NoCapacity: 503,
    Unreachable: 503,
}


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

    async def send(self, send: Send) -> None:
        """Writes it out."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.all_headers()})
        await send({"type": "http.response.body", "body": self.body})


class Request:
    """One request: its headers by lower-case name, and its body on demand."""

    __slots__ = ("_limit_bytes", "_receive", "headers", "method", "path")

    def __init__(self, scope: Scope, receive: Receive, limit_bytes: int) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._limit_bytes = limit_bytes

    def check_head(self) -> None:
        """Raises HeadTooLarge."""
        size = len(self.path) + sum(len(name) + len(value) for name, value in self.headers.items())
        if size > HEAD_MOST_BYTES:
            what = f"its path and headers have {size} bytes, and {HEAD_MOST_BYTES} are taken"
            raise HeadTooLarge(what, where="request", remedy="send fewer headers, or what they hold in the body")

    def header(self, name: bytes) -> str | None:
        """A header's text, or None."""
        return text_of(self.headers, name)

    async def body(self) -> bytes:
        """The whole body, inflated. Raises what `raw_body` does, and BadInput for a broken encoding."""
        return inflate(await self.raw_body(), (self.header(b"content-encoding") or "").lower(), self._limit_bytes)

    async def raw_body(self) -> bytes:
        """The whole body as it came. Raises TooLarge and Disconnected."""
        declared = self.header(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > self._limit_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limit_bytes:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                break
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is over {self._limit_bytes} bytes", where="request", remedy="send fewer rows a request")


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
    return _with_retry(json_reply(document, 200 if ready else 503))


def status_of(error: HeadraceError) -> int:
    """The HTTP status of an error's kind."""
    return next(STATUS[kind] for kind in (*type(error).__mro__, EngineFailure) if kind in STATUS)


def error_reply(error: HeadraceError) -> Reply:
    """The protocol's error: one string."""
    return _with_retry(json_reply({"error": str(error)}, status_of(error)))


def control_error_reply(error: HeadraceError) -> Reply:
    """A control command's error, from which its client builds the same error again."""
    document = {"kind": error.kind, "what": error.what, "where": error.where, "remedy": error.remedy}
    return _with_retry(json_reply({"error": document}, status_of(error)))


def _with_retry(reply: Reply) -> Reply:
    if reply.status != 503:
        return reply
    return Reply(reply.status, reply.body, reply.content_type, ((b"retry-after", RETRY_AFTER_S),))
