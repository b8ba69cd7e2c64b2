"""What one process counts, of any metric in the catalogue, and hands on as numbered deltas."""

from __future__ import annotations

import logging
import threading
import uuid
from bisect import bisect_left
from collections.abc import Callable, Sequence

from cluster.watch.catalogue import Metric
from cluster.watch.reports import Buckets, MetricsReport, Series
from deployments.observe.use_log import UseLog

_log = logging.getLogger(__name__)

# So a quiet process is heard of often enough not to be taken for gone: see `cluster.watch.sums.SILENT_S`.
QUIET_TURNS = 4


class _Counted:
    """Of one series: how many lie in each bucket, the last one for what is above all bounds."""

    __slots__ = ("counts", "total")

    def __init__(self, bounds: int) -> None:
        self.counts = [0] * (bounds + 1)
        self.total = 0.0


class Meters:
    """Used from any thread; every method returns at once and never raises. Call it once a batch, never once a record.

    A report stays the next one, unchanged, until `delivered`: sent again under its number, it is counted once. `uses` is what the
    process counts for the audit, under the same `source`.
    """

    def __init__(self, source: str = "") -> None:
        """`source` must be new for every process that ever counts."""
        self._source = source or uuid.uuid4().hex
        self.uses = UseLog(self._source)
        self._lock = threading.Lock()
        self._sequence = 0
        self._counters: dict[Series, float] = {}
        self._histograms: dict[Series, _Counted] = {}
        self._gauges: dict[Series, float] = {}
        self._looks: list[Callable[[Meters], None]] = []
        self._sending: MetricsReport | None = None
        self._quiet = QUIET_TURNS

    def add(self, metric: Metric, count: float, *labels: str) -> None:
        """Adds to a counter; `labels` are values, in the order of the metric's."""
        series = Series(metric.name, labels)
        with self._lock:
            self._counters[series] = self._counters.get(series, 0) + count

    def observe(self, metric: Metric, value: float, *labels: str, count: int = 1) -> None:
        """Counts a value `count` times in a histogram."""
        place = bisect_left(metric.bounds, value)
        series = Series(metric.name, labels)
        with self._lock:
            buckets = self._histograms.get(series)
            if buckets is None:
                buckets = self._histograms[series] = _Counted(len(metric.bounds))
            buckets.counts[place] += count
            buckets.total += value * count

    def observe_counts(self, metric: Metric, counts: Sequence[int], total: float, *labels: str) -> None:
        """Adds values that were sorted into the histogram's buckets already (the last one is above all bounds); `total` is their
        sum."""
        series = Series(metric.name, labels)
        with self._lock:
            buckets = self._histograms.get(series)
            if buckets is None:
                buckets = self._histograms[series] = _Counted(len(metric.bounds))
            buckets.counts = [a + b for a, b in zip(buckets.counts, counts, strict=True)]
            buckets.total += total

    def put(self, metric: Metric, value: float | None, *labels: str) -> None:
        """Sets a gauge, which stands until it is set again; None takes it away."""
        series = Series(metric.name, labels)
        with self._lock:
            if value is None:
                self._gauges.pop(series, None)
            else:
                self._gauges[series] = value

    def before_each_report(self, look: Callable[[Meters], None]) -> None:
        """`look` is called before each report is made, to set gauges and bring what is counted elsewhere; it must not block."""
        self._looks.append(look)

    def next_report(self) -> MetricsReport | None:
        """The report to send now, about once a second, with all gauges as they are. None where there is nothing new to tell; now
        and then an empty one says that the process lives."""
        if self._sending is not None:
            return self._sending
        for look in self._looks:
            try:
                look(self)
            except Exception:  # noqa: BLE001 - all other figures go on
                _log.exception("gauges were not set")
        with self._lock:
            if not (self._counters or self._histograms) and self._quiet < QUIET_TURNS:
                self._quiet += 1
                return None
            self._quiet = 0
            counters, self._counters = self._counters, {}
            taken, self._histograms = self._histograms, {}
            gauges = dict(self._gauges)
        histograms = {series: Buckets(tuple(one.counts), one.total) for series, one in taken.items()}
        self._sequence += 1
        self._sending = MetricsReport(self._source, self._sequence, counters, histograms, gauges)
        return self._sending

    def delivered(self, report: MetricsReport) -> None:
        """The controller has it."""
        if self._sending is report:
            self._sending = None
