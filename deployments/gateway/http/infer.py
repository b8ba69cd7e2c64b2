"""`infer` over HTTP, from a head and a body to an answer, whoever read them from the connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.errors import BadInput
from deployments.gateway.dataplane import Call, DataPlane
from deployments.gateway.http.asgi import Reply, text_of
from deployments.gateway.protocol.compression import deflate, inflate
from deployments.gateway.protocol.request import parse_raw_request, parse_request
from deployments.gateway.protocol.response import encode_response

HEADER_LENGTH = b"inference-header-content-length"


@dataclass(frozen=True, slots=True)
class InferHead:
    """What is told before the body. `header_bytes` of it are JSON; None: all, 0: none."""

    call: Call
    header_bytes: int | None
    content_encoding: str
    accept_encoding: str


def read_head(headers: Mapping[bytes, bytes], model: str, version: str | None) -> InferHead:
    """The head that these headers make, by lower-case name. Raises BadInput."""
    length = text_of(headers, HEADER_LENGTH)
    if length is not None and (not length.isascii() or not length.isdigit() or len(length) > 18):
        raise BadInput(f"it must be a number of bytes; got {length[:80]!r}", where="Inference-Header-Content-Length")
    return InferHead(
        read_call(headers, model, version),
        None if length is None else int(length),
        (text_of(headers, b"content-encoding") or "").lower(),
        text_of(headers, b"accept-encoding") or "",
    )


def read_call(headers: Mapping[bytes, bytes], model: str, version: str | None) -> Call:
    """Who is asked, with which key, and by when. Raises BadInput."""
    timeout = text_of(headers, b"x-timeout-ms")
    if timeout is not None and (not timeout.isascii() or not timeout.isdigit() or not 0 < len(timeout) <= 9 or int(timeout) == 0):
        raise BadInput(f"it must be a whole number of milliseconds above 0; got {timeout[:80]!r}", where="x-timeout-ms")
    return Call(model, version, headers.get(b"x-routing-key") or None, None if timeout is None else int(timeout) / 1000)


async def answer_infer(dataplane: DataPlane, head: InferHead, body: bytes | memoryview, limit_bytes: int) -> Reply:
    """Scores a request whose body may inflate to `limit_bytes`. Raises HeadraceError."""
    if head.content_encoding:
        body = inflate(bytes(body), head.content_encoding, limit_bytes)
    if head.header_bytes == 0:
        request = parse_raw_request(body, await dataplane.signature(head.call.model, head.call.version))
    else:
        request = parse_request(body, head.header_bytes)
    answer = await dataplane.infer(head.call, request)
    encoded, header_bytes = encode_response(answer)
    told, encoding = deflate(encoded, head.accept_encoding)
    headers: list[tuple[bytes, bytes]] = [(b"content-encoding", encoding.encode())] if encoding else []
    if header_bytes is None:
        return Reply(200, told, headers=tuple(headers))
    headers.append((HEADER_LENGTH, b"%d" % header_bytes))
    return Reply(200, told, b"application/octet-stream", tuple(headers))
