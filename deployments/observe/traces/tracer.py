"""Decides what is traced, and hands finished traces to where they go. One a process."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from cluster.access.quotas import Bucket
from cluster.watch.catalogue import MALFORMED_TRACEPARENTS
from deployments.observe.meters import Meters
from deployments.observe.payloads.sampling import sampled_places
from deployments.observe.traces.span import Attribute, Span, SpanKind
from deployments.observe.traces.traceparent import parsed

TRACE_SEED = 27  # so that payloads and traces are not of the same records
# A trace of a stream is some ten spans, which take three tenths of a millisecond of the process until they are sent. A hundred
# a second took a tenth of a stream's rate; ten show no cost.
DRAWN_A_S_MOST = 25


class SpanSink(Protocol):
    """Where finished spans go. Safe to call from any thread."""

    def offer(self, spans: Sequence[Span]) -> None:
        """Takes all, or drops and counts all. Returns at once, and never raises."""

    def close(self) -> None:
        """Sends what waits, for a few seconds at most. Blocks."""


class Tracer:
    """Safe to call from any thread; no call blocks, and none raises.

    What has a context of its caller's is traced where that says so, and else left alone; of what has none, `ratio` of all is, and
    at most DRAWN_A_S_MOST a second.
    """

    def __init__(self, sink: SpanSink, ratio: float, meters: Meters, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink, self._ratio, self._meters, self._clock = sink, ratio, meters, clock
        self._room, self._lock = Bucket.full(DRAWN_A_S_MOST, clock()), threading.Lock()

    def begin(
        self,
        traceparent: bytes,
        name: str,
        attributes: dict[str, Attribute],
        *,
        kind: SpanKind = SpanKind.SERVER,
        began_ns: int | None = None,
    ) -> Span | None:
        """A span for what came with this context, empty where it brought none; None where it is not to be traced."""
        trace_id, parent_id = 0, 0
        if traceparent:
            context = parsed(traceparent)
            if context is None:
                self._meters.add(MALFORMED_TRACEPARENTS, 1)
            elif context.sampled:
                trace_id, parent_id = context.trace_id, context.span_id
            else:
                return None
        if not trace_id:
            if random.random() >= self._ratio or not self._taken(1):  # noqa: S311 (no secret)
                return None
            trace_id = new_trace_id()
        return Span(name, trace_id, parent_id, kind=kind, began_ns=began_ns, attributes=attributes)

    def sampled(self, place: str, numbers: Sequence[int], contexts: Mapping[int, bytes]) -> dict[int, tuple[int, int]]:
        """Which of the records at these offsets of the place are traced: by row, the trace and the span above it, or 0.

        `contexts` are the headers of the rows that have one. Of the others a hash of place and offset decides (one that is read
        again is traced again), and chance where it would take more than may be drawn. What looks like an unsampled context at
        both its ends is taken for one: most are.
        """
        found: dict[int, tuple[int, int]] = {}
        malformed = 0
        for row, value in contexts.items():
            if value[-3:] == b"-00" and value[:3] == b"00-":
                continue
            context = parsed(value)
            if context is None:
                malformed += 1
            elif context.sampled:
                found[row] = context.trace_id, context.span_id
        if malformed:
            self._meters.add(MALFORMED_TRACEPARENTS, malformed)
        if self._ratio > 0 and len(contexts) - malformed < len(numbers):
            drawn = sampled_places(place, np.asarray(numbers), self._ratio, TRACE_SEED).tolist()
            ours = [row for row in drawn if row not in contexts or parsed(contexts[row]) is None]
            if ours and (room := self._taken(len(ours))) < len(ours):
                ours = sorted(random.sample(ours, room))
            found |= {row: (new_trace_id(), 0) for row in ours}
        return found

    def _taken(self, wanted: int) -> int:
        """How many of so many may be drawn now; they are."""
        with self._lock:
            taken = min(wanted, int(self._room.fill(self._clock())))
            self._room.take(taken)
        return taken

    def finish(self, *roots: Span) -> None:
        """Sends these with all that is within them; what goes on in them ends here."""
        spans = [span for root in roots for span in _ended(root.all())]
        if spans:
            self._sink.offer(spans)

    def close(self) -> None:
        """See SpanSink."""
        self._sink.close()


def new_trace_id() -> int:
    """At random."""
    return random.getrandbits(128) or 1


def _ended(spans: Iterable[Span]) -> Iterable[Span]:
    for span in spans:
        if not span.over:
            span.over = True
            span.end()
            yield span
