"""`infer` over HTTP, from a head and a body to an answer, whoever read them from the connection."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.access.callers import Caller
from cluster.errors import BadInput
from cluster.signature import Datatype, Signature
from deployments.gateway.admission import Lease
from deployments.gateway.dataplane import DataPlane, InferCall
from deployments.gateway.http.asgi import Reply, inflated, text_of
from deployments.gateway.http.server.body import Pieces
from deployments.gateway.large import LARGE_BYTES, LargeWork
from deployments.gateway.protocol.compression import WORTH_BYTES, deflate
from deployments.gateway.protocol.request import InferRequest, parse_raw_request, parse_request
from deployments.gateway.protocol.response import InferResponse, encode_response
from deployments.gateway.request_meter import WireProtocol

HEADER_LENGTH = b"inference-header-content-length"
JSON_FOLD = 4  # a number of 4 bytes takes about 12 as JSON, and longer to write
DEFLATE_FOLD = 8  # a byte takes that much longer to compress than to write


@dataclass(frozen=True, slots=True)
class InferHead:
    """What is told before the body. `header_bytes` of it are JSON; None: all, 0: none."""

    call: InferCall
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


def read_call(headers: Mapping[bytes, bytes], model: str, version: str | None) -> InferCall:
    """Who is asked, with which key, and by when. Raises BadInput."""
    timeout = text_of(headers, b"x-timeout-ms")
    if timeout is not None and (not timeout.isascii() or not timeout.isdigit() or not 0 < len(timeout) <= 9 or int(timeout) == 0):
        raise BadInput(f"it must be a whole number of milliseconds above 0; got {timeout[:80]!r}", where="x-timeout-ms")
    return InferCall(model, version, headers.get(b"x-routing-key") or None, None if timeout is None else int(timeout) / 1000)


@dataclass(frozen=True, slots=True)
class HttpInfer:
    """Answers such requests, whose bodies may have `max_body_bytes` as they come, and as many inflated."""

    dataplane: DataPlane
    large: LargeWork
    max_body_bytes: int

    async def answer(self, head: InferHead, body: Pieces, lease: Lease, caller: Caller) -> Reply:
        """Scores a request of that caller, and empties `body`. Raises HeadraceError."""
        began_s = time.monotonic()
        try:
            answer, reply = await self._answer(head, body, lease, caller)
        except BaseException as error:
            self.failed(head, error, caller)
            raise
        self.dataplane.requests.answered(head.call.model, answer.version, WireProtocol.HTTP, began_s, caller, answer.rows)
        return reply

    def failed(self, head: InferHead, error: BaseException, caller: Caller | None = None) -> None:
        """Counts a request that ended so, of that caller where he was known by then."""
        self.dataplane.requests.failed(head.call.model, WireProtocol.HTTP, error, caller)

    async def _answer(self, head: InferHead, body: Pieces, lease: Lease, caller: Caller) -> tuple[InferResponse, Reply]:
        dataplane = self.dataplane
        if sum(map(len, body)) > LARGE_BYTES:
            data = await self.large.run(_whole, body)
        else:
            data = _whole(body)
        if head.content_encoding not in ("", "identity"):
            data = await inflated(bytes(data), head.content_encoding, self.max_body_bytes, lease, self.large)
        signature = None
        if head.header_bytes == 0:
            signature = await dataplane.signature(head.call.model, head.call.version, caller=caller)
        if len(data) > LARGE_BYTES:
            request = await self.large.run(_read, data, head, signature)
        else:
            request = _read(data, head, signature)
        del data
        answer = await dataplane.infer(head.call, request, caller)
        if _weight(answer, head) > LARGE_BYTES:
            return answer, await self.large.run(_reply, answer, head)
        return answer, _reply(answer, head)


def _whole(pieces: Pieces) -> bytes | memoryview:
    """Joins, and empties. Of a large body, no more than two copies are to be at a time."""
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    pieces.clear()
    return bytes(data) if isinstance(data, bytearray) else data


def _read(data: bytes | memoryview, head: InferHead, signature: Signature | None) -> InferRequest:
    return parse_request(data, head.header_bytes) if signature is None else parse_raw_request(data, signature)


def _weight(answer: InferResponse, head: InferHead) -> int:
    """How many bytes it would be as long to write, without looking at each of BYTES."""
    size_bytes = 0
    for output in answer.outputs:
        own_bytes = sum(map(len, output.array.ravel().tolist())) if output.datatype is Datatype.BYTES else output.array.nbytes
        size_bytes += own_bytes if output.binary else JSON_FOLD * own_bytes
    return DEFLATE_FOLD * size_bytes if head.accept_encoding and size_bytes > WORTH_BYTES else size_bytes


def _reply(answer: InferResponse, head: InferHead) -> Reply:
    encoded, header_bytes = encode_response(answer)
    told, encoding = deflate(encoded, head.accept_encoding)
    headers: list[tuple[bytes, bytes]] = [(b"content-encoding", encoding.encode())] if encoding else []
    if header_bytes is None:
        return Reply(200, told, headers=tuple(headers))
    headers.append((HEADER_LENGTH, b"%d" % header_bytes))
    return Reply(200, told, b"application/octet-stream", tuple(headers))
