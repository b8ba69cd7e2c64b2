"""Traces of records: from the moment that a worker takes one until its answer is committed.

A sampled record has a span, under its producer's where it names one, and its answer carries that on. What is done for a whole
micro-batch stands once, within the first sampled record of it; the others link there. Records that are not sampled keep what
they have, and cost nothing but a look at their headers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from consumers.stream.log.port import Header, Records
from deployments.observe.traces.span import Span, SpanKind, during, unix_ns
from deployments.observe.traces.traceparent import HEADER
from deployments.observe.traces.tracer import Tracer
from deployments.scoring.port import Scored


class RecordTracer:
    """Of one worker, used from its thread."""

    def __init__(self, tracer: Tracer, stream: str, model: str, group: str) -> None:
        self._tracer, self._stream, self._model, self._group = tracer, stream, model, group

    def taken(self, slices: Sequence[Records]) -> list[Records]:
        """The records, with the spans of those that are sampled, which begin now."""
        return [self._with_spans(records) for records in slices]

    def committed(self, spans: Iterable[Span], topic: str, began_s: float) -> None:
        """A transaction that began then (monotonic) has committed their answers: their traces are whole."""
        roots, began_ns = list(spans), unix_ns(began_s)
        for root in roots:
            about = {"messaging.system": "kafka", "messaging.operation.name": "commit", "messaging.destination.name": topic}
            root.child(f"commit {topic}", {**about}, kind=SpanKind.CLIENT, began_ns=began_ns).end()
        self._tracer.finish(*roots)

    def _with_spans(self, records: Records) -> Records:
        (topic, number), offsets = records.origin
        found = self._tracer.sampled(f"{topic}/{number}", offsets, _contexts(records.headers))
        if not found:
            return records
        spans = {row: self._span(topic, number, offsets[row], *above) for row, above in found.items()}
        return replace(records, spans=spans)

    def _span(self, topic: str, number: int, offset: int, trace_id: int, parent_id: int) -> Span:
        return Span(
            f"process {topic}",
            trace_id,
            parent_id,
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": topic,
                "messaging.destination.partition.id": str(number),
                "messaging.consumer.group.name": self._group,
                "messaging.kafka.offset": offset,
                "headrace.stream": self._stream,
                "headrace.model": self._model,
            },
        )


def _contexts(headers: Sequence[Sequence[Header]]) -> dict[int, bytes]:
    """The trace contexts that records bring, by row."""
    if not any(headers):
        return {}
    return {row: value or b"" for row, each in enumerate(headers) if each for name, value in each if name == HEADER}


def batch_span(slices: Sequence[Records]) -> Span | None:
    """The span of what is done for all of these at once; None where none of them is traced."""
    roots = [span for records in slices for span in records.spans.values()]
    if not roots:
        return None
    batch = roots[0].child("batch", {"messaging.batch.message_count": sum(map(len, slices))})
    for other in roots[1:]:
        other.links.append(batch)
    return batch


def within(span: Span | None, name: str) -> AbstractContextManager[Any]:
    """A piece of a micro-batch's work, where it is traced."""
    return contextlib.nullcontext() if span is None else span.child(name)


def scoring(span: Span | None, submit: Callable[[], Future[Scored]]) -> Future[Scored]:
    """What `submit` begins is done for a piece of the span, where there is one, which ends with it."""
    if span is None:
        return submit()
    score = span.child("score")
    with during(score):
        scored = submit()
    scored.add_done_callback(lambda _: score.end())
    return scored


def context_header(span: Span) -> Header:
    """What carries the span on with the answer."""
    return HEADER, span.traceparent


def carried(headers: list[list[Header]], spans: Mapping[int, Span]) -> list[list[Header]]:
    """The headers, in which the rows of these spans carry them on, in place of what they brought."""
    for row, span in spans.items():
        headers[row] = [*(one for one in headers[row] if one[0] != HEADER), context_header(span)]
    return headers
