"""All metrics, as sums over the cluster."""

from __future__ import annotations

import functools
import importlib.metadata

from cluster.access.callers import Caller, Role
from cluster.commands.command import CommandEntry, CommandResult, Context, Message, Nothing
from cluster.commands.rights import anybodys
from cluster.ports import FeedKind
from cluster.state import State, feed_key
from cluster.watch.catalogue import BUILD_INFO, SEEN_CALLERS
from cluster.watch.reports import Series
from cluster.watch.standing import Living, standing, standing_delays

MetricValue = tuple[str, tuple[str, ...], float]
MetricBuckets = tuple[str, tuple[str, ...], tuple[int, ...], float]


class MetricsView(Message):
    """Every series that the caller may see: a metric's name, its labels' values in their order, and its number. For histograms:
    how many lie in each bucket (not cumulative), and their sum."""

    values: tuple[MetricValue, ...]
    histograms: tuple[MetricBuckets, ...]


def _metrics(at: Context, _: Nothing) -> CommandResult:
    totals = at.totals()
    own = {Series(BUILD_INFO.name, (_release(),)): 1.0, Series(SEEN_CALLERS.name, ()): float(at.seen_callers)}
    gauges = own | standing(at.state, at.apps, at.feeds, at.troubles, at.now_s, at.drift())
    may = _Sight(at)
    values = [
        (series.metric, series.labels, float(value))
        for each in (totals.counters, totals.gauges, gauges)
        for series, value in each.items()
        if may.see(series)
    ]
    histograms = [
        (series.metric, series.labels, seen.counts, seen.total)
        for each in (totals.histograms, standing_delays(at.state))
        for series, seen in each.items()
        if may.see(series)
    ]
    return CommandResult(at.state, MetricsView(values=tuple(values), histograms=tuple(histograms)))


@functools.cache
def _release() -> str:
    return importlib.metadata.version("headrace")


class _Sight:
    """Which series live, and may be seen; each pair of names is looked up once."""

    def __init__(self, at: Context) -> None:
        self._at = at
        self._living = Living(at.state, at.apps, at.now_s)
        self._known: dict[tuple[str, ...], bool] = {}

    def see(self, series: Series) -> bool:
        about = self._living.about(series)
        found = self._known.get(about)
        if found is None:
            found = self._known[about] = self._living.has(series) and _visible(self._at.state, self._at.caller, series)
        return found


def _visible(state: State, caller: Caller, series: Series) -> bool:
    named = series.named
    model = named.get("model", "")
    for kind in (FeedKind.STREAM, FeedKind.BATCH):
        if kind in named:
            model = state.feeds[feed_key(kind, named[kind])].spec.model
    if model:
        return caller.may(Role.VIEW, model)
    return caller.sees_all  # what is of no model tells of all of them


METRICS = CommandEntry(
    "metrics.list", Nothing, MetricsView, _metrics, "All metrics, summed over the cluster", anybodys, looks=True
)
COMMANDS = (METRICS,)
