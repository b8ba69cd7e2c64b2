"""All that the controller keeps of metrics: sums, and their history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cluster.drift.watched import DriftLook
from cluster.ports import AppState, FeedState
from cluster.state import State
from cluster.versions import VersionId
from cluster.watch.catalogue import TICK_SECONDS, Metric
from cluster.watch.history import History, HistoryPoint
from cluster.watch.reports import MetricsReport
from cluster.watch.standing import Living, standing
from cluster.watch.sums import MetricTotals, Sums

FORGET_EVERY_S = 60.0


class MetricsBook:
    """`take`, `totals` and `history` may be called from any thread, `ticked` from one. It sums since `since_s`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.since_s = clock()
        self._sums, self._history = Sums(clock), History()
        self._forgot_s = clock()

    def take(self, report: MetricsReport) -> None:
        """Counts what a process tells, once."""
        self._sums.take(report)

    def add(self, metric: Metric, count: float, *labels: str) -> None:
        """Adds to a counter of the controller's own."""
        self._sums.add(metric, count, *labels)

    def heard(self) -> dict[str, float]:
        """When each process was heard of last."""
        return self._sums.heard()

    def totals(self) -> MetricTotals:
        """All sums now."""
        return self._sums.totals()

    def history(self) -> list[HistoryPoint]:
        """The last hour and the last day, oldest first."""
        return self._history.points()

    def ticked(
        self,
        took_s: float,
        state: State,
        apps: Mapping[str, AppState],
        feeds: Mapping[str, FeedState],
        looks: Mapping[VersionId, DriftLook] = MappingProxyType({}),
    ) -> None:
        """A round of the controller is over, which saw the world so. Now and then a point of history is made, and series of what
        is no more are forgotten."""
        now_s = self._clock()
        self._sums.observe(TICK_SECONDS, took_s)
        if self._history.due(now_s):
            self._history.note(now_s, self._sums.totals(), standing(state, apps, feeds, 0, now_s, looks))
        if not 0 <= now_s - self._forgot_s < FORGET_EVERY_S:
            self._forgot_s = now_s
            self._sums.keep(Living(state, apps, now_s).has)
