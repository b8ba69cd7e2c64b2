"""A receiver of traces that speaks OTLP over HTTP as collectors do: protobuf messages of opentelemetry-proto, posted."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

WAIT_S = 60.0


@dataclass(frozen=True)
class Received:
    """One span, ids as hexadecimal digits."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    links: tuple[str, ...]
    failed: bool
    service: str


@dataclass
class TraceReceiver:
    """What came so far. While `answering` is unset, it takes what is posted and does not answer."""

    url: str = ""
    posts: int = 0
    answering: threading.Event = field(default_factory=threading.Event)
    _spans: list[Received] = field(default_factory=list)
    _more: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes) -> None:
        """One post."""
        message = ExportTraceServiceRequest.FromString(body)
        with self._more:
            self.posts += 1
            self._spans += [
                _received(span, {one.key: one.value.string_value for one in group.resource.attributes})
                for group in message.resource_spans
                for scope in group.scope_spans
                for span in scope.spans
            ]
            self._more.notify_all()

    def trace(self, trace: str, *, least: int = 1, timeout_s: float = WAIT_S) -> list[Received]:
        """The spans of a trace, once there are so many, by their begins."""
        with self._more:
            self._more.wait_for(lambda: len(self._of(trace)) >= least, timeout_s)
            return sorted(self._of(trace), key=lambda span: span.began_ns)

    @property
    def spans(self) -> list[Received]:
        """All that came."""
        with self._more:
            return list(self._spans)

    def _of(self, trace: str) -> list[Received]:
        return [span for span in self._spans if span.trace == trace]


def _received(span: Any, about: dict[str, str]) -> Received:
    attributes = {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}
    return Received(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        attributes,
        tuple(link.span_id.hex() for link in span.links),
        span.status.code == 2,
        about["service.name"],
    )


@contextmanager
def receiving() -> Iterator[TraceReceiver]:
    """A receiver on a free port of loopback, for as long as the block lasts."""
    receiver = TraceReceiver()
    receiver.answering.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            assert self.headers["content-type"] == "application/x-protobuf"
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.take(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            receiver.answering.wait()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the library has it
            """It tells tests alone."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, name="traces", daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.answering.set()
        server.shutdown()
        server.server_close()
        thread.join()
