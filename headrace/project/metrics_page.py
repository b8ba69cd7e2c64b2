"""The page of all metrics, written from the catalogue by `make reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum

from cluster.watch.catalogue import METRICS, Across, LabelFault, Metric, MetricKind, RequestOutcome, RowFault, ScoringWay

HEADER = """# Metrics

Written from the code by `make reference`; a test fails when it is out of date.

`GET /metrics` at the door tells them all, summed over the cluster: one target for Prometheus, however many nodes there are. It
speaks Prometheus' text and OpenMetrics. `headrace metrics` prints the same. Where access asks for a key, a scrape needs one that
may view; it gets the series of the models that its key may view. A scrape fails while the controller is away, rather than tell
old sums.

    scrape_configs:
      - job_name: headrace
        authorization: {credentials_file: /etc/prometheus/headrace-key}
        static_configs: [{targets: ["127.0.0.1:8000"]}]

Boards, rules and alerts: [ops/](../ops/README.md). `headrace up --prometheus` runs a Prometheus with them.
Counters begin at 0 with a new controller, which `rate()` and `increase()` expect.
Why they are so: [decision 29](decisions/0029-metrics.md).

| metric | kind | labels | what it says |
|---|---|---|---|
"""


def metrics_page() -> str:
    """The whole page, in Markdown."""
    rows = "".join(f"| `{one.name}` | {one.kind} | {_labels(one)} | {one.words}{_across(one)} |\n" for one in METRICS)
    return f"{HEADER}{rows}\n## Labels with a closed set of values\n\n{_sets()}\n## Buckets\n\n{_buckets()}"


def _labels(one: Metric) -> str:
    return ", ".join(f"`{label}`" for label in one.labels) or "none"


def _across(one: Metric) -> str:
    return " Of several processes, the most." if one.kind is MetricKind.GAUGE and one.across is Across.MOST else ""


def _sets() -> str:
    told: tuple[tuple[str, type[StrEnum]], ...] = (
        ("`way`", ScoringWay),
        ("`outcome` of requests", RequestOutcome),
        ("`reason` of `headrace_row_errors_total`", RowFault),
        ("`reason` of `headrace_label_faults_total`", LabelFault),
    )
    return "".join(f"- {label}: {', '.join(f'`{one}`' for one in values)}\n" for label, values in told)


def _buckets() -> str:
    histograms = [one for one in METRICS if one.kind is MetricKind.HISTOGRAM]
    bounds = dict.fromkeys(one.bounds for one in histograms)
    return "".join(f"- {_numbers(each)}: {_names(histograms, each)}\n" for each in bounds)


def _numbers(bounds: Iterable[float]) -> str:
    return ", ".join(f"{bound:g}" for bound in bounds)


def _names(histograms: Iterable[Metric], bounds: tuple[float, ...]) -> str:
    return ", ".join(f"`{one.name}`" for one in histograms if one.bounds == bounds)


if __name__ == "__main__":
    sys.stdout.write(metrics_page())
