"""From what a process counts to what Prometheus reads: each thing once, whatever is lost or sent twice on the way."""

from __future__ import annotations

import math

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from cluster.commands.watch.metrics import MetricsView
from cluster.watch import catalogue
from cluster.watch.catalogue import (
    DROPPED,
    ENGINE_SECONDS,
    METRICS,
    REQUESTS,
    REQUESTS_UNDER_WAY,
    ROWS_SCORED,
    TABLE_AGE,
    MetricKind,
)
from cluster.watch.reports import MetricsReport, Series
from cluster.watch.sums import FORGOTTEN_S, SILENT_S, Sums
from deployments.observe.exposition import exposed
from deployments.observe.meters import QUIET_TURNS, Meters
from tests.support.clock import Clock

ROWS = Series(ROWS_SCORED.name, ("digits", "3", "online"))
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def report_of(meters: Meters) -> MetricsReport:
    report = meters.next_report()
    assert report is not None
    return report


def add(meters: Meters, rows: int) -> None:
    meters.add(ROWS_SCORED, rows, "digits", "3", "online")


def test_a_report_is_counted_once_however_often_it_is_sent() -> None:
    meters, sums = Meters(), Sums(Clock())
    add(meters, 5)
    first = report_of(meters)
    sums.take(first)
    add(meters, 2)
    assert meters.next_report() is first  # the answer got lost
    sums.take(first)
    meters.delivered(first)
    sums.take(report_of(meters))
    assert sums.totals().counters[ROWS] == 7


def test_what_was_counted_while_nobody_was_there_is_told_at_once_later() -> None:
    meters, sums = Meters(), Sums(Clock())
    for _ in range(10):
        add(meters, 1)
        meters.observe(ENGINE_SECONDS, 0.002, "digits", "3", "online")
        meters.next_report()  # and the controller is away
    lost = report_of(meters)
    sums.take(lost)
    meters.delivered(lost)
    sums.take(report_of(meters))
    totals = sums.totals()
    assert totals.counters[ROWS] == 10
    (seen,) = totals.histograms.values()
    assert (sum(seen.counts), round(seen.total, 6)) == (10, 0.02)


def test_processes_add_up_and_one_that_is_gone_takes_its_gauges_along_and_nothing_else() -> None:
    clock = Clock()
    sums, one, other = Sums(clock), Meters(), Meters()
    for meters, under_way, age_s in ((one, 3, 0.5), (other, 4, 2.0)):
        add(meters, 10)
        meters.put(REQUESTS_UNDER_WAY, under_way)
        meters.put(TABLE_AGE, age_s)
        sums.take(report_of(meters))
    gauges = sums.totals().gauges
    assert gauges == {Series(REQUESTS_UNDER_WAY.name, ()): 7, Series(TABLE_AGE.name, ()): 2.0}
    clock.now_s += SILENT_S + 1
    one.delivered(report_of(one))
    add(one, 1)
    sums.take(report_of(one))
    assert sums.totals().gauges == {Series(REQUESTS_UNDER_WAY.name, ()): 3, Series(TABLE_AGE.name, ()): 0.5}
    assert sums.totals().counters[ROWS] == 21
    clock.now_s += FORGOTTEN_S + 1
    assert sums.totals().gauges == {}
    assert sums.totals().counters[ROWS] == 21


def test_a_quiet_process_says_now_and_then_that_it_lives() -> None:
    meters = Meters()
    meters.delivered(report_of(meters))
    turns = [meters.next_report() for _ in range(QUIET_TURNS + 1)]
    assert [turn is None for turn in turns] == [True] * QUIET_TURNS + [False]


def test_a_gauge_that_can_not_be_looked_at_stops_no_other_figure(caplog: pytest.LogCaptureFixture) -> None:
    meters = Meters()

    def broken(_: Meters) -> None:
        raise RuntimeError("not there")

    meters.before_each_report(broken)
    meters.before_each_report(lambda each: each.put(REQUESTS_UNDER_WAY, 2))
    add(meters, 1)
    report = report_of(meters)
    assert (report.counters[ROWS], report.gauges[Series(REQUESTS_UNDER_WAY.name, ())]) == (1, 2)
    assert "not there" in caplog.text


def test_what_this_release_does_not_know_is_left_out_and_counted() -> None:
    sums = Sums(Clock())
    sums.take(MetricsReport("new", 1, {Series("headrace_of_tomorrow_total", ()): 1, Series(ROWS_SCORED.name, ("digits",)): 1}))
    assert sums.totals().counters == {Series(DROPPED.name, ()): 2}


def view_of(sums: Sums) -> MetricsView:
    totals = sums.totals()
    values = [(name, labels, value) for each in (totals.counters, totals.gauges) for (name, labels), value in each.items()]
    histograms = [(name, labels, seen.counts, seen.total) for (name, labels), seen in totals.histograms.items()]
    return MetricsView(values=tuple(values), histograms=tuple(histograms))


@pytest.mark.parametrize("accept", ["", "text/plain", OPENMETRICS])
def test_the_page_is_what_prometheus_reads(accept: str) -> None:
    meters, sums = Meters(), Sums(Clock())
    add(meters, 5)
    meters.add(REQUESTS, 2, "digits", "3", "http", "ok")
    for seconds in (0.0004, 0.0005, 0.002, 99.0):
        meters.observe(ENGINE_SECONDS, seconds, "digits", "3", "online")
    sums.take(report_of(meters))
    page, content_type = exposed(view_of(sums), accept)
    assert ("openmetrics" in content_type) == (accept == OPENMETRICS)
    families = {family.name: family for family in (openmetrics if accept == OPENMETRICS else plain)(page.decode())}
    rows = next(sample for sample in families["headrace_rows"].samples if sample.name == "headrace_rows_total")
    assert (rows.labels, rows.value) == ({"model": "digits", "version": "3", "way": "online"}, 5)
    seen = {sample.labels.get("le", sample.name): sample.value for sample in families["headrace_engine_seconds"].samples}
    assert (seen["0.0005"], seen["0.001"], seen["0.0025"], seen["10.0"], seen["+Inf"]) == (2, 2, 3, 3, 4)
    assert math.isclose(seen["headrace_engine_seconds_sum"], 99.0029)


def test_names_are_as_prometheus_wants_them() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 40
    for metric in METRICS:
        assert metric.name.startswith("headrace_")
        assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER), metric
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert bool(metric.bounds) == (metric.kind is MetricKind.HISTOGRAM)
        assert "le" not in metric.labels
        assert metric.words.endswith(".")


def test_no_metric_of_the_catalogue_is_told_by_nobody(every_module_text: str) -> None:
    names = [name for name, value in vars(catalogue).items() if isinstance(value, catalogue.Metric)]
    assert [name for name in names if name not in every_module_text] == []


@pytest.fixture(scope="module")
def every_module_text() -> str:
    from pathlib import Path

    root = Path(catalogue.__file__).parents[2]
    rooms = ("cluster", "deployments", "consumers", "headrace")
    files = [file for room in rooms for file in (root / room).rglob("*.py") if file.name != "catalogue.py"]
    return "\n".join(file.read_text() for file in files)
