"""The head of one HTTP/1.1 request, from its bytes: strict, since what two servers read differently smuggles requests."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

import httptools

from cluster.errors import BadInput
from deployments.gateway.door.settings import CAME
from deployments.observe.traces.traceparent import NO_TRACE, CallerTrace

HEAD_END = b"\r\n\r\n"
# Headers that the door alone may set, and so takes from callers: they do not count as the caller's.
DOORS_OWN = b"x-headrace-"


_TRACEPARENT, _TRACESTATE, _CAME = b"\r\ntraceparent:", b"\r\ntracestate:", f"\r\n{CAME}:".encode()


def without_trace(head: bytes) -> tuple[bytes, CallerTrace]:
    """The head without its trace context, and that: each request has another, and heads are remembered. Names are in lower case,
    as the door writes them."""
    if _TRACEPARENT not in head:
        return head, NO_TRACE
    head, traceparent = _cut_all(head, _TRACEPARENT)
    head, _ = _cut_all(head, _TRACESTATE)
    head, came_us = _cut_all(head, _CAME)
    return head, CallerTrace(traceparent, came_us)


def _cut_all(head: bytes, begins: bytes) -> tuple[bytes, bytes]:
    found = b""
    while (at := head.find(begins)) >= 0:
        end = head.find(b"\r\n", at + len(begins))
        found = b"," if found else head[at + len(begins) : end].strip()  # of two, neither is the caller's: it is malformed
        head = head[:at] + head[end:]
    return head, found


@dataclass(frozen=True, slots=True)
class RequestHead:
    """Header names are in lower case, in the order of their coming. `size_bytes` are of path, names and values, but
    for what the door has added.

    `body_bytes` is None where the body comes in chunks. `keeps` tells whether another request may follow on the connection, and
    `expects` whether the caller sends the body only when told to.
    """

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    size_bytes: int
    body_bytes: int | None
    keeps: bool
    expects: bool


def parse_head(data: bytes) -> RequestHead:
    """Reads a head that ends with HEAD_END, and nothing after it. Raises BadInput."""
    seen = _HeadEvents()
    parser = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # an offer, which may be passed over
    except httptools.HttpParserError as error:
        raise BadInput(f"not a valid HTTP request: {error}", where="request") from None
    if not seen.whole or seen.messages != 1:
        raise BadInput("not a valid HTTP request", where="request")
    version, method = parser.get_http_version(), parser.get_method().decode("latin-1")
    headers = dict(seen.headers)
    if b"transfer-encoding" not in headers:
        body_bytes: int | None = int(headers.get(b"content-length", b"0"))
    elif version == "1.1" and headers[b"transfer-encoding"].lower() == b"chunked":
        body_bytes = None
    else:
        raise BadInput("its transfer coding is not chunked alone, in HTTP/1.1", where="Transfer-Encoding")
    expects = version == "1.1" and headers.get(b"expect", b"").lower() == b"100-continue"
    size_bytes = sum(len(name) + len(value) for name, value in seen.headers if not name.startswith(DOORS_OWN))
    path = _path(seen.url)
    keeps = version == "1.1" and parser.should_keep_alive()
    return RequestHead(method, path, tuple(seen.headers), len(path) + size_bytes, body_bytes, keeps, expects)


def _path(url: bytes) -> str:
    try:
        path = (httptools.parse_url(url).path or b"/").decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        raise BadInput("its target is not a valid one", where="request") from None
    return urllib.parse.unquote(path) if "%" in path else path


class _HeadEvents:
    """What the parser saw."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.messages = 0
        self.whole = False

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self.messages += 1

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.whole = True
