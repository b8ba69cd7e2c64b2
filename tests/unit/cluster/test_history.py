"""The last hour and day: rates of what was counted, bounded however long it runs."""

from __future__ import annotations

import itertools

import pytest

from cluster.troubles import TroubleLog
from cluster.watch.catalogue import REQUEST_SECONDS, REQUESTS, ROWS_SCORED, STREAM_LAG
from cluster.watch.history import (
    COARSE_POINTS,
    COARSE_S,
    FINE_POINTS,
    FINE_S,
    POINTS_MOST,
    Figure,
    FigureValues,
    History,
    HistorySubject,
    quantile,
    thinned,
)
from cluster.watch.reports import Buckets, Series
from cluster.watch.sums import MetricTotals
from headrace.cli.watch.lines import blocks

ROWS_S = Figure(HistorySubject.MODEL, "digits", "rows_s")


def totals(rows: float = 0, slow: int = 0, failed: int = 0, lag: float = 0) -> MetricTotals:
    counts = [0] * (len(REQUEST_SECONDS.bounds) + 1)
    counts[3], counts[9] = 98, slow  # up to 5 ms, up to 0.5 s
    return MetricTotals(
        {
            Series(ROWS_SCORED.name, ("digits", "1", "online")): rows,
            Series(ROWS_SCORED.name, ("digits", "2", "stream")): rows,
            Series(REQUESTS.name, ("digits", "", "http", "failed")): failed,
            Series(REQUESTS.name, ("", "", "http", "refused")): 5,
        },
        {Series(REQUEST_SECONDS.name, ("digits", "1", "http")): Buckets(tuple(counts), 1.0)},
        {Series(STREAM_LAG.name, ("scores",)): lag},
    )


def test_what_was_counted_becomes_rates_over_all_versions_and_ways() -> None:
    history = History()
    history.note(1000.0, MetricTotals(), {})
    history.note(1010.0, totals(rows=50, slow=2, failed=20, lag=7), {})
    (point,) = history.points()
    assert point.at_s == 1010.0
    assert point.figures[ROWS_S] == pytest.approx(10.0)
    assert point.figures[Figure(HistorySubject.MODEL, "digits", "failed_requests_s")] == pytest.approx(2.0)
    assert 0.25 < point.figures[Figure(HistorySubject.MODEL, "digits", "p99_s")] <= 0.5
    assert point.figures[Figure(HistorySubject.STREAM, "scores", "lag_records")] == 7
    assert all(figure.name for figure in point.figures)


def test_a_day_and_a_half_is_kept_as_a_day_by_five_minutes_and_an_hour_by_ten_seconds() -> None:
    history, now_s = History(), 0.0
    assert history.due(now_s)
    while now_s < 36 * 3600:
        history.note(now_s, totals(rows=now_s), {})
        assert not history.due(now_s + FINE_S / 2)
        assert history.due(now_s + FINE_S)
        now_s += FINE_S
    points = history.points()
    assert FINE_POINTS < len(points) <= FINE_POINTS + COARSE_POINTS
    assert points == sorted(points, key=lambda point: point.at_s)
    assert 23 * 3600 <= points[-1].at_s - points[0].at_s <= 24 * 3600
    assert {round(point.figures[ROWS_S], 6) for point in points} == {2.0}
    steps = {round(b.at_s - a.at_s) for a, b in itertools.pairwise(points)}
    assert {FINE_S, COARSE_S} <= steps
    few = thinned(points)
    assert len(few) <= POINTS_MOST
    assert few[-1] == points[-1]


def test_what_was_forgotten_and_begins_anew_is_no_negative_rate() -> None:
    history = History()
    history.note(1000.0, totals(rows=900, slow=50), {})
    history.note(1010.0, totals(rows=10), {})
    assert history.points()[-1].figures[ROWS_S] == pytest.approx(2.0)
    assert history.points()[-1].figures[Figure(HistorySubject.MODEL, "digits", "p99_s")] <= 0.005


def test_a_clock_that_is_set_back_stops_no_history() -> None:
    history = History()
    history.note(1000.0, totals(), {})
    assert history.due(500.0)
    history.note(500.0, totals(rows=9), {})
    history.note(510.0, totals(rows=19), {})
    assert history.points()[-1].figures[ROWS_S] == pytest.approx(2.0)


def test_points_of_the_same_figures_hold_no_more_than_their_numbers() -> None:
    one, other = Figure(HistorySubject.MODEL, "digits", "rows_s"), Figure(HistorySubject.STREAM, "scores", "records_s")
    first = FigureValues({one: 1.0, other: 2.0})
    second = FigureValues({other: 4.0, one: 3.0}, first)
    third = FigureValues({one: 5.0}, second)
    assert (first, second, third) == ({one: 1.0, other: 2.0}, {one: 3.0, other: 4.0}, {one: 5.0})
    assert second.has_figures_of(first)
    assert not third.has_figures_of(second)
    assert (second.value(other), third.value(one), third.value(other)) == (4.0, 5.0, None)


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [
        ((0, 0, 0), 0.5, None),
        ((4, 0, 0), 0.5, 0.5),
        ((0, 4, 0), 0.5, 1.5),
        ((1, 1, 98), 0.99, 2.0),  # above all bounds: the highest is all that is known
        ((2, 2, 0), 0.75, 1.5),
    ],
)
def test_a_quantile_is_prometheus_own(counts: tuple[int, ...], share: float, value: float | None) -> None:
    assert quantile((1.0, 2.0), counts, share) == value


def test_lines_are_drawn_from_nothing_to_the_highest_with_gaps() -> None:
    assert blocks([0, None, 5, 10]) == "▁ ▅█"
    assert blocks([0.0] * 3) == "▁▁▁"
    assert len(blocks([float(i) for i in range(1000)])) == 60
    assert blocks([]) == ""


def test_who_is_away_stands_in_the_controllers_way_until_he_is_back() -> None:
    troubles = TroubleLog()
    troubles.note("fleet", "Serve does not answer")
    troubles.tell_faults({"digits": RuntimeError("a mistake")})
    assert troubles.count == 2
    troubles.note("fleet", "")
    assert troubles.count == 1


def test_a_clock_that_was_set_back_lives_through_that_time_again() -> None:
    history = History()
    for step in range(61):
        history.note(100_000.0 + step * FINE_S, totals(rows=step), {})
    for step in range(40):
        history.note(50_000.0 + step * FINE_S, totals(rows=step), {})
    at_s = [point.at_s for point in history.points()]
    assert at_s == sorted(at_s)
    assert at_s[-1] == 50_000.0 + 39 * FINE_S
    assert [point.at_s for point in history._coarse] == [50_000.0 + COARSE_S]
