"""The last hour by ten seconds and the last day by five minutes, of what operators ask for first. In memory, and bounded."""

from __future__ import annotations

import threading
from array import array
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from cluster.watch.catalogue import (
    DRIFT_SIZE,
    LIVE_LOSS_HIGH,
    LIVE_LOSS_LOW,
    REQUEST_SECONDS,
    REQUESTS,
    ROLLOUT_CHECK_HIGH,
    ROLLOUT_CHECK_LOW,
    ROLLOUT_WEIGHT,
    ROW_ERRORS,
    ROWS_SCORED,
    STABLE_VERSION,
    STREAM_LAG,
    STREAM_RECORDS,
    RequestOutcome,
)
from cluster.watch.reports import Buckets, Series
from cluster.watch.sums import MetricTotals

FINE_S, COARSE_S = 10.0, 300.0
FINE_POINTS, COARSE_POINTS = 360, 288
POINTS_MOST = 500  # of one figure in an answer
FIGURES_MOST = 5_000  # in one point: what is beyond has no history


class HistorySubject(StrEnum):
    """What a figure is about."""

    MODEL = "model"
    STREAM = "stream"


class Figure(NamedTuple):
    """One line of the history, such as `rows_s` of model `digits`: a rate a second, a time in seconds, a number, or a share."""

    subject: HistorySubject
    name: str
    figure: str


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """All figures over the time that ended then (Unix)."""

    at_s: float
    figures: FigureValues


class FigureValues(Mapping[Figure, float]):
    """Figures as numbers in a row; their `places` are shared with every other point that has the same ones.

    With a thousand models, dictionaries of them would hold a day's points in half a gigabyte.
    """

    __slots__ = ("_places", "_values")

    def __init__(self, figures: Mapping[Figure, float], like: FigureValues | None = None) -> None:
        """The places are those of `like`, where it has the same figures."""
        self._places: Mapping[Figure, int]
        if like is not None and like._places.keys() == figures.keys():  # noqa: SLF001 - its own
            self._places = like._places  # noqa: SLF001
        else:
            self._places = {figure: place for place, figure in enumerate(figures)}
        self._values: array[float] = array("d", (figures[figure] for figure in self._places))

    def has_figures_of(self, other: FigureValues) -> bool:
        """Whether they are known to be the same, without a look at them."""
        return self._places is other._places

    def value(self, figure: Figure) -> float | None:
        """None where there is none: `get` takes five times as long, and of a day's lines there are a million values."""
        place = self._places.get(figure)
        return None if place is None else self._values[place]

    def __getitem__(self, figure: Figure) -> float:
        return self._values[self._places[figure]]

    def __iter__(self) -> Iterator[Figure]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._values)


class History:
    """Written by one thread, read by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fine: deque[HistoryPoint] = deque(maxlen=FINE_POINTS)
        self._coarse: deque[HistoryPoint] = deque(maxlen=COARSE_POINTS)
        self._before: tuple[float, MetricTotals] | None = None
        self._folded_s = 0.0
        self._last: FigureValues | None = None

    def due(self, now_s: float) -> bool:
        """Whether a point is to be made; also where the clock was set back."""
        return self._before is None or not 0 <= now_s - self._before[0] < FINE_S

    def note(self, now_s: float, totals: MetricTotals, standing: Mapping[Series, float]) -> None:
        """Makes a point of what was counted since the last one, and of how things stand. The first one only begins."""
        before, self._before = self._before, (now_s, totals)
        if before is None or now_s <= before[0]:
            self._forget_what_is_to_come(now_s)
            return
        self._last = FigureValues(figures(before[1], totals, standing, now_s - before[0]), self._last)
        point = HistoryPoint(now_s, self._last)
        with self._lock:
            self._fine.append(point)
            if not self._folded_s:
                self._folded_s = before[0]
            if now_s - self._folded_s >= COARSE_S:
                part = [each for each in self._fine if each.at_s > self._folded_s]
                self._coarse.append(HistoryPoint(now_s, FigureValues(_means(part), self._last)))
                self._folded_s = now_s

    def _forget_what_is_to_come(self, now_s: float) -> None:
        """A clock that was set back lives through that time again."""
        with self._lock:
            self._fine = deque((each for each in self._fine if each.at_s <= now_s), FINE_POINTS)
            self._coarse = deque((each for each in self._coarse if each.at_s <= now_s), COARSE_POINTS)
            self._folded_s = min(self._folded_s, now_s)

    def points(self) -> list[HistoryPoint]:
        """All of them, oldest first: five minutes each up to an hour ago, then ten seconds each."""
        with self._lock:
            first_s = self._fine[0].at_s if self._fine else 0.0
            return [*(each for each in self._coarse if each.at_s < first_s), *self._fine]


def figures(before: MetricTotals, after: MetricTotals, standing: Mapping[Series, float], seconds: float) -> dict[Figure, float]:
    """What happened between two looks, `seconds` apart. Pure."""
    found: dict[Figure, float] = defaultdict(float)
    for series, total in after.counters.items():
        known = before.counters.get(series, 0.0)
        grown = (total - known if total >= known else total) / seconds  # one that was forgotten begins anew
        match series.metric:
            case ROWS_SCORED.name:
                found[Figure(HistorySubject.MODEL, series.named["model"], "rows_s")] += grown
            case ROW_ERRORS.name:
                found[Figure(HistorySubject.MODEL, series.named["model"], "row_errors_s")] += grown
            case REQUESTS.name if (labels := series.named)["model"]:
                found[Figure(HistorySubject.MODEL, labels["model"], "requests_s")] += grown
                if labels["outcome"] == RequestOutcome.FAILED:
                    found[Figure(HistorySubject.MODEL, labels["model"], "failed_requests_s")] += grown
            case STREAM_RECORDS.name:
                found[Figure(HistorySubject.STREAM, series.named["stream"], "records_s")] += grown
    seen: dict[str, Buckets] = {}
    for series, buckets in after.histograms.items():
        if series.metric == REQUEST_SECONDS.name:
            grown_by = _minus(buckets, before.histograms.get(series))
            model = series.named["model"]
            seen[model] = grown_by if model not in seen else seen[model] + grown_by
    for model, buckets in seen.items():
        p99_s = quantile(REQUEST_SECONDS.bounds, buckets.counts, 0.99)
        if p99_s is not None:
            found[Figure(HistorySubject.MODEL, model, "p99_s")] = p99_s
    found |= _gauges(after.gauges, standing)
    return dict(list(found.items())[:FIGURES_MOST])


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The value below which so large a share lies, straight between a bucket's bounds, as Prometheus' histogram_quantile has it;
    the highest bound where it lies above all. None where nothing was observed. Pure."""
    total = sum(counts)
    if not total:
        return None
    wanted, below = share * total, 0
    for place, count in enumerate(counts):
        if below + count >= wanted and count:
            if place == len(bounds):
                break
            low = bounds[place - 1] if place else 0.0
            return low + (bounds[place] - low) * (wanted - below) / count
        below += count
    return bounds[-1]


def thinned(points: Sequence[HistoryPoint]) -> list[HistoryPoint]:
    """At most POINTS_MOST of them, evenly, and the newest always."""
    step = -(-len(points) // POINTS_MOST) or 1
    return list(points[::-1][::step][::-1])


def _gauges(gauges: Mapping[Series, float], standing: Mapping[Series, float]) -> dict[Figure, float]:
    found = {}
    for series, value in gauges.items():
        if series.metric == STREAM_LAG.name:
            found[Figure(HistorySubject.STREAM, series.named["stream"], "lag_records")] = value
    of_labels: Mapping[str, str] = {LIVE_LOSS_LOW.name: "live_loss_low", LIVE_LOSS_HIGH.name: "live_loss_high"}
    of_checks: Mapping[str, str] = {ROLLOUT_CHECK_LOW.name: "low", ROLLOUT_CHECK_HIGH.name: "high"}
    for series, value in standing.items():
        if series.metric == ROLLOUT_WEIGHT.name:
            found[Figure(HistorySubject.MODEL, series.named["model"], "candidate_share")] = value
        elif series.metric == DRIFT_SIZE.name:
            figure = Figure(HistorySubject.MODEL, series.named["model"], "drift_size")
            found[figure] = max(value, found.get(figure, 0.0))
        elif series.metric in of_labels:
            labels = series.named
            # Of the version that serves: those of others stand still.
            if standing.get(Series(STABLE_VERSION.name, (labels["model"],))) == int(labels["version"]):
                found[Figure(HistorySubject.MODEL, labels["model"], of_labels[series.metric])] = value
        elif series.metric in of_checks:
            labels = series.named
            found[Figure(HistorySubject.MODEL, labels["model"], f"{labels['check']}_{of_checks[series.metric]}")] = value
    return found


def _means(points: Iterable[HistoryPoint]) -> dict[Figure, float]:
    """The mean of each figure over the points that have it."""
    values: dict[Figure, list[float]] = defaultdict(list)
    for point in points:
        for figure, value in point.figures.items():
            values[figure].append(value)
    return {figure: sum(each) / len(each) for figure, each in values.items()}


def _minus(after: Buckets, before: Buckets | None) -> Buckets:
    if before is None or sum(before.counts) > sum(after.counts):
        return after
    counts = tuple(a - b for a, b in zip(after.counts, before.counts, strict=True))
    return Buckets(counts, after.total - before.total)
