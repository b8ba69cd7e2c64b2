"""The trace of a run: one span for it, and one for each unit, made by its driver from the units' receipts.

Each run is traced where anything is: it has some thousand units at most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import xxhash

from consumers.batch.plan import Unit
from consumers.batch.run import Workforce
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.records import Receipt, RunRecord
from deployments.observe.meters import Meters
from deployments.observe.traces.opening import tracer_of
from deployments.observe.traces.settings import TraceSettings
from deployments.observe.traces.span import Attribute, Span
from deployments.observe.traces.tracer import Tracer

TRACED_AS = "headrace-batch"


@contextlib.contextmanager
def traced(workforce: Workforce, settings: TraceSettings | None = None, meters: Meters | None = None) -> Iterator[Workforce]:
    """The workforce, whose units are traced by these settings, or by those of the environment; itself where nothing is."""
    tracer = tracer_of(settings, meters or Meters(), TRACED_AS)
    if tracer is None:
        yield workforce
        return
    try:
        yield with_spans(workforce, tracer)
    finally:
        tracer.close()


def with_spans(workforce: Workforce, tracer: Tracer) -> Workforce:
    """One that sends a span for each unit that it has done, and at the end one for all of them."""

    def score(ledger: Ledger, record: RunRecord, units: Sequence[Unit], workers: int) -> Iterator[Receipt]:
        root = Span(f"batch {record.name}", trace_of(record.run_id), attributes=_about(record, units=len(units), workers=workers))
        try:
            for receipt in workforce.score(ledger, record, units, workers):
                tracer.finish(unit_span(root, record, receipt))
                yield receipt
        except Exception as error:
            root.error = type(error).__name__
            raise
        finally:
            tracer.finish(root)

    return replace(workforce, score=score)


def trace_of(run_id: str) -> int:
    """The same for each part of a run, whichever process did it."""
    return xxhash.xxh3_128_intdigest(run_id.encode()) or 1


def unit_span(root: Span, record: RunRecord, receipt: Receipt) -> Span:
    """What a worker did for one unit, as it tells."""
    began_ns = round(receipt.started_s * 1e9)
    about = _about(record, unit=receipt.unit, rows=receipt.rows, quarantined=receipt.quarantined)
    made = Span(f"unit {record.name}", root.trace_id, root.span_id, began_ns=began_ns, attributes=about)
    made.ended_ns = began_ns + round(receipt.seconds * 1e9)
    return made


def _about(record: RunRecord, **more: Attribute) -> dict[str, Attribute]:
    told: dict[str, Attribute] = {"run": record.run_id, "model": record.pinned.model, "version": record.pinned.version, **more}
    return {f"headrace.{name}": value for name, value in told.items()}
