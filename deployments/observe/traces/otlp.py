"""Spans as OpenTelemetry's SDK sends them: OTLP over HTTP. Imported only where something is traced.

No provider of the SDK's makes them: they are over, and their ids were told to others, before the SDK hears of them. What its
tracers do beside took more of a stream's time than all else of a trace. Serve's own provider, and whatever a model's code sets
up, stay as they are.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags
from opentelemetry.trace import SpanKind as OtelKind

from cluster.watch.catalogue import SPANS
from deployments.observe.meters import Meters
from deployments.observe.traces.span import Span, SpanKind

QUEUE_MOST, EXPORT_MOST, EVERY_MS = 2048, 512, 2000.0
ANSWER_S = 5.0  # a receiver that hangs holds nothing but the thread that sends
CLOSE_S = 3.0
EXPORTED, DROPPED, FAILED = "exported", "dropped", "failed"
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_FROM_OTHERS = (SpanKind.SERVER, SpanKind.CONSUMER)
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
        self._exporter = _CountingExporter(OTLPSpanExporter(endpoint=endpoint, timeout=ANSWER_S), meters)
        self._processor = BatchSpanProcessor(
            self._exporter, max_queue_size=QUEUE_MOST, max_export_batch_size=EXPORT_MOST, schedule_delay_millis=EVERY_MS
        )
        self._resource, self._scope = Resource.create(about), InstrumentationScope("headrace", release)
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
                    self._processor.on_end(self._made(span))
        if not room:
            self._meters.add(SPANS, len(spans), DROPPED)

    def close(self) -> None:
        """See SpanSink."""
        ending = threading.Thread(target=self._processor.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(CLOSE_S)

    def _made(self, span: Span) -> ReadableSpan:
        remote = span.kind in _FROM_OTHERS
        return ReadableSpan(
            span.name,
            SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=_SAMPLED),
            SpanContext(span.trace_id, span.parent_id, is_remote=remote, trace_flags=_SAMPLED) if span.parent_id else None,
            self._resource,
            {**span.attributes, "error.type": span.error} if span.error else {**span.attributes},  # who works on may add to them
            links=[Link(SpanContext(one.trace_id, one.span_id, is_remote=False, trace_flags=_SAMPLED)) for one in span.links],
            kind=_KINDS[span.kind],
            status=_FAILED if span.error else _UNSET,
            start_time=span.began_ns,
            end_time=span.ended_ns,
            instrumentation_scope=self._scope,
        )


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
