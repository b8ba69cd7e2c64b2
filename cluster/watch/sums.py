"""The cluster's sums: what all processes have reported, counted once."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cluster.watch.catalogue import BY_NAME, DROPPED, Across, Metric, MetricKind
from cluster.watch.reports import Buckets, MetricsReport, Series

# Who was silent for so long has no say in gauges any more; processes report about once a second.
SILENT_S = 10.0
# Nobody resends after so long: the number of its last report may be forgotten.
FORGOTTEN_S = 3600.0
# Of a hundred models of ten versions each all series are some 40,000; more are a defect, and are dropped and told.
MOST_SERIES = 200_000


@dataclass(frozen=True, slots=True)
class MetricTotals:
    """All sums at one moment."""

    counters: Mapping[Series, float] = field(default_factory=dict)
    histograms: Mapping[Series, Buckets] = field(default_factory=dict)
    gauges: Mapping[Series, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Source:
    sequence: int
    heard_s: float
    gauges: Mapping[Series, float]


class Sums:
    """Used from any thread. Kept in memory: a controller that begins anew counts from nothing, as Prometheus expects it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counters: dict[Series, float] = {}
        self._histograms: dict[Series, Buckets] = {}
        self._sources: dict[str, _Source] = {}
        self._dropped = 0

    def take(self, report: MetricsReport) -> None:
        """Counts a report, once. What this release does not know of it is left out: nodes are upgraded in turn."""
        now_s = self._clock()
        with self._lock:
            known = self._sources.get(report.source)
            if known is not None and report.sequence <= known.sequence:
                known.heard_s = now_s
                return
            self._sources[report.source] = _Source(report.sequence, now_s, report.gauges)
            for series, count in report.counters.items():
                if self._has_room(series, self._counters, MetricKind.COUNTER):
                    self._counters[series] = self._counters.get(series, 0.0) + count
            for series, buckets in report.histograms.items():
                if self._has_room(series, self._histograms, MetricKind.HISTOGRAM, len(buckets.counts)):
                    before = self._histograms.get(series)
                    self._histograms[series] = buckets if before is None else before + buckets

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Counts one value of the controller's own in a histogram."""
        counts = [0] * (len(metric.bounds) + 1)
        counts[bisect_left(metric.bounds, value)] = 1
        series, seen = Series(metric.name, labels), Buckets(tuple(counts), value)
        with self._lock:
            before = self._histograms.get(series)
            self._histograms[series] = seen if before is None else before + seen

    def add(self, metric: Metric, count: float, *labels: str) -> None:
        """Adds to a counter of the controller's own."""
        series = Series(metric.name, labels)
        with self._lock:
            self._counters[series] = self._counters.get(series, 0.0) + count

    def heard(self) -> dict[str, float]:
        """When each process was heard of last, of those that reported within the last hour."""
        with self._lock:
            return {name: one.heard_s for name, one in self._sources.items()}

    def totals(self) -> MetricTotals:
        """All sums now."""
        now_s = self._clock()
        with self._lock:
            self._forget(now_s)
            gauges: dict[Series, float] = {}
            for source in self._sources.values():
                if now_s - source.heard_s > SILENT_S:
                    continue
                for series, value in source.gauges.items():
                    metric = BY_NAME.get(series.metric)
                    if metric is None:
                        continue
                    before = gauges.get(series)
                    if before is None:
                        gauges[series] = value
                    else:
                        gauges[series] = max(before, value) if metric.across is Across.MOST else before + value
            return MetricTotals({**self._counters, Series(DROPPED.name, ()): self._dropped}, dict(self._histograms), gauges)

    def keep(self, lives: Callable[[Series], bool]) -> None:
        """Forgets series of what is gone."""
        with self._lock:
            self._counters = {series: count for series, count in self._counters.items() if lives(series)}
            self._histograms = {series: buckets for series, buckets in self._histograms.items() if lives(series)}

    def _forget(self, now_s: float) -> None:
        self._sources = {name: one for name, one in self._sources.items() if now_s - one.heard_s <= FORGOTTEN_S}

    def _has_room(self, series: Series, known: Mapping[Series, object], kind: MetricKind, buckets: int = 0) -> bool:
        metric = BY_NAME.get(series.metric)
        fits = metric is not None and metric.kind is kind and len(series.labels) == len(metric.labels)
        if metric is not None and kind is MetricKind.HISTOGRAM:
            fits = fits and buckets == len(metric.bounds) + 1
        if fits and (series in known or len(self._counters) + len(self._histograms) < MOST_SERIES):
            return True
        self._dropped += 1
        return False
