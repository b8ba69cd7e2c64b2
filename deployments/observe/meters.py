"""What one process counts, of any metric in the catalogue, and hands on as numbered deltas."""

from __future__ import annotations

import threading
import uuid
from bisect import bisect_left
from collections.abc import Sequence

from cluster.watch.catalogue import Metric
from cluster.watch.reports import Buckets, Report, Series


class _Counted:
    """Of one series: how many lie in each bucket, the last one for what is above all bounds."""

    __slots__ = ("counts", "total")

    def __init__(self, bounds: int) -> None:
        self.counts = [0] * (bounds + 1)
        self.total = 0.0


class Meters:
    """Used from any thread; every method returns at once and never raises. Call it once a batch, never once a record.

    A report stays the next one, unchanged, until `delivered`: sent again under its number, it is counted once.
    """

    def __init__(self, source: str = "") -> None:
        """`source` must be new for every process that ever counts."""
        self._source = source or uuid.uuid4().hex
        self._lock = threading.Lock()
        self._sequence = 0
        self._counters: dict[Series, float] = {}
        self._histograms: dict[Series, _Counted] = {}
        self._gauges: dict[Series, float] = {}
        self._sending: Report | None = None

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

    def observe_all(self, metric: Metric, values: Sequence[float], *labels: str) -> None:
        """Counts each of some values, of a few dozens at most; a batch's many rows are to be counted by bucket first."""
        for value in values:
            self.observe(metric, value, *labels)

    def put(self, metric: Metric, value: float | None, *labels: str) -> None:
        """Sets a gauge, which stands until it is set again; None takes it away."""
        series = Series(metric.name, labels)
        with self._lock:
            if value is None:
                self._gauges.pop(series, None)
            else:
                self._gauges[series] = value

    def next_report(self) -> Report:
        """The report to send now, with all gauges as they are; it may be empty: that says that the process lives."""
        if self._sending is not None:
            return self._sending
        with self._lock:
            counters, self._counters = self._counters, {}
            taken, self._histograms = self._histograms, {}
            gauges = dict(self._gauges)
        histograms = {series: Buckets(tuple(one.counts), one.total) for series, one in taken.items()}
        self._sequence += 1
        self._sending = Report(self._source, self._sequence, counters, histograms, gauges)
        return self._sending

    def delivered(self, report: Report) -> None:
        """The controller has it."""
        if self._sending is report:
            self._sending = None
