"""Spans as OpenTelemetry's SDK makes and sends them: OTLP over HTTP. Imported only where something is traced.

The provider is ours alone: Serve's own, and whatever a model's code sets up, stay as they are.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.trace import SpanKind as OtelKind

from cluster.watch.catalogue import SPANS
from deployments.observe.meters import Meters
from deployments.observe.traces.span import Span, SpanKind

QUEUE_MOST, EXPORT_MOST, EVERY_MS = 2048, 512, 2000.0
ANSWER_S = 5.0  # a receiver that hangs holds nothing but the thread that sends
CLOSE_S = 3.0
EXPORTED, DROPPED, FAILED = "exported", "dropped", "failed"
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {
    SpanKind.INTERNAL: OtelKind.INTERNAL,
    SpanKind.SERVER: OtelKind.SERVER,
    SpanKind.CLIENT: OtelKind.CLIENT,
    SpanKind.PRODUCER: OtelKind.PRODUCER,
    SpanKind.CONSUMER: OtelKind.CONSUMER,
}


class OtlpSink:
    """Implements SpanSink. At most QUEUE_MOST spans wait; what would be more is dropped, and never made."""

    def __init__(self, endpoint: str, service: str, meters: Meters) -> None:
        """`service` names this process to whoever looks at traces."""
        release = importlib.metadata.version("headrace")
        about = {"service.name": service, "service.namespace": "headrace", "service.version": release}
        self._meters = meters
        self._ids = _GivenIds()
        self._exporter = _CountingExporter(OTLPSpanExporter(endpoint=endpoint, timeout=ANSWER_S), meters)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.create(about), id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter, max_queue_size=QUEUE_MOST, max_export_batch_size=EXPORT_MOST, schedule_delay_millis=EVERY_MS
            )
        )
        self._tracer = self._provider.get_tracer("headrace", release)
        self._lock = threading.Lock()
        self._offered = 0

    def offer(self, spans: Sequence[Span]) -> None:
        """See SpanSink."""
        with self._lock:
            if self._offered - self._exporter.passed + len(spans) > QUEUE_MOST:
                room = False
            else:
                room = True
                self._offered += len(spans)
                for span in spans:
                    self._make(span)
        if not room:
            self._meters.add(SPANS, len(spans), DROPPED)

    def close(self) -> None:
        """See SpanSink."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(CLOSE_S)

    def _make(self, span: Span) -> None:
        self._ids.trace_id, self._ids.span_id = span.trace_id, span.span_id
        above = Context()
        if span.parent_id:
            parent = SpanContext(span.trace_id, span.parent_id, is_remote=span.kind in (SpanKind.SERVER, SpanKind.CONSUMER))
            above = set_span_in_context(NonRecordingSpan(parent), above)
        made = self._tracer.start_span(
            span.name,
            above,
            _KINDS[span.kind],
            span.attributes,
            [Link(SpanContext(one.trace_id, one.span_id, is_remote=False, trace_flags=_SAMPLED)) for one in span.links],
            span.began_ns,
        )
        if span.error:
            made.set_attribute("error.type", span.error)
            made.set_status(Status(StatusCode.ERROR))
        made.end(span.ended_ns)


class _GivenIds(IdGenerator):
    """Ours, which were told to others before the span was made. Used under the sink's lock."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _CountingExporter(SpanExporter):
    """Counts what has passed, well or badly."""

    def __init__(self, exporter: OTLPSpanExporter, meters: Meters) -> None:
        self._exporter, self._meters = exporter, meters
        self.passed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self.passed += len(spans)
            self._meters.add(SPANS, len(spans), EXPORTED if result is SpanExportResult.SUCCESS else FAILED)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - nothing waits here
        return True
