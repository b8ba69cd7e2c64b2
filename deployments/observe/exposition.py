"""The controller's sums as Prometheus reads them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from cluster.commands.watch.metrics import MetricBuckets, MetricsView, MetricValue
from cluster.watch.catalogue import METRICS, Metric, MetricKind


def exposed(view: MetricsView, accept: str) -> tuple[bytes, str]:
    """The page that a scraper gets which accepts such types, and its content type: OpenMetrics, or Prometheus' own text."""
    registry = CollectorRegistry()
    registry.register(_Sums(view))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Sums(Collector):
    """Those metrics that have a series, in the catalogue's order."""

    def __init__(self, view: MetricsView) -> None:
        self._values: dict[str, list[MetricValue]] = defaultdict(list)
        self._histograms: dict[str, list[MetricBuckets]] = defaultdict(list)
        for value in view.values:
            self._values[value[0]].append(value)
        for buckets in view.histograms:
            self._histograms[buckets[0]].append(buckets)

    def describe(self) -> Iterable[Family]:
        """Nothing: else the registry would collect all of it to see the names."""
        return ()

    def collect(self) -> Iterable[Family]:
        """See Collector."""
        for metric in METRICS:
            if metric.kind is MetricKind.HISTOGRAM:
                if seen := self._histograms.get(metric.name):
                    yield _histogram(metric, seen)
            elif values := self._values.get(metric.name):
                yield _plain(metric, values)


def _plain(metric: Metric, values: Iterable[MetricValue]) -> Family:
    kind = CounterMetricFamily if metric.kind is MetricKind.COUNTER else GaugeMetricFamily
    family = kind(metric.name.removesuffix("_total"), metric.words, labels=metric.labels)
    for _, labels, value in sorted(values):
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, seen: Iterable[MetricBuckets]) -> Family:
    bounds = [*map(repr, metric.bounds), "+Inf"]
    family = HistogramMetricFamily(metric.name, metric.words, labels=metric.labels)
    for _, labels, counts, total in sorted(seen):
        family.add_metric(labels, list(zip(bounds, itertools.accumulate(counts), strict=True)), total)
    return family
