"""Watches the versions that score: takes what scorers counted, and raises alarms, about each ten seconds."""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections.abc import Callable, Mapping

from cluster.drift.alarms import DriftAlarm
from cluster.drift.counts import DriftReport
from cluster.drift.detectors import TICK_S
from cluster.drift.inbox import DriftCounts, DriftInbox
from cluster.drift.scope import watched_as, watched_versions
from cluster.drift.section import Drift
from cluster.drift.watched import DriftLook, WatchedVersion
from cluster.state import State
from cluster.versions import VersionId

AT_ONCE = 50
"""So many versions are looked at in any case: more are spread over the ten seconds."""

_log = logging.getLogger(__name__)


class _Round:
    """What was counted of versions when it began, and is worked off within ten seconds."""

    def __init__(self, began_s: float, counted: dict[VersionId, DriftCounts]) -> None:
        self.began_s = began_s
        self._left, self._all = counted, len(counted)

    def rest(self) -> dict[VersionId, DriftCounts]:
        """All that is left."""
        return self._take(len(self._left))

    def due(self, passed: float) -> dict[VersionId, DriftCounts]:
        """What is to be looked at when that share of the time has passed."""
        done = self._all - len(self._left)
        return self._take(max(AT_ONCE, math.ceil(passed * self._all) - done))

    def _take(self, most: int) -> dict[VersionId, DriftCounts]:
        return {version: self._left.pop(version) for version in list(itertools.islice(self._left, most))}


class DriftWatch:
    """`take` and `looks` may be called from any thread, all else from one. In memory: what is counted begins anew with each
    controller, and alarms are the state's.

    There is at most one tick of a version's detectors in ten seconds of the clock. One that jumps forward brings one tick, not
    many, and one that is set back does too; a tick without rows changes nothing. Of many versions each call of `tick` takes some,
    so that none of them is long.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._inbox = DriftInbox()
        self._watched: dict[VersionId, WatchedVersion] = {}
        self._waiting: list[DriftAlarm] = []
        self._round = _Round(clock(), {})
        self._lock = threading.Lock()
        self._looks: dict[VersionId, DriftLook] = {}

    def take(self, report: DriftReport) -> None:
        """See `DriftInbox.take`."""
        self._inbox.take(report)

    def tick(self, state: State) -> None:
        """Ticks the detectors of the versions that are stable, or a rollout's candidate, where it is time."""
        now_s = self._clock()
        passed = (now_s - self._round.began_s) / TICK_S
        if not 0 <= passed < 1:
            self._tick(self._round.rest(), state, now_s)
            self._begin(state, now_s)
            passed = 0.0
        self._tick(self._round.due(passed), state, now_s)

    def _begin(self, state: State, now_s: float) -> None:
        """Another ten seconds, with all that was counted in the last."""
        watched = watched_versions(state)
        self._round = _Round(now_s, dict(self._inbox.drain(lambda version: version in state.versions)))
        self._watched = {version: one for version, one in self._watched.items() if version in watched}
        unknown = self._inbox.without_profile() & watched.keys() - self._watched.keys()
        bare = {version: DriftLook(version, now_s, rows=0, features=0, profile_rows=0) for version in unknown}
        with self._lock:
            self._looks = {version: look for version, look in self._looks.items() if version in self._watched} | bare

    def _tick(self, counted: Mapping[VersionId, DriftCounts], state: State, now_s: float) -> None:
        if not counted:
            return
        stand: dict[VersionId, set[str]] = {}
        for alarm in (*state.alarms.values(), *self._waiting):
            stand.setdefault(alarm.version, set()).add(alarm.key)
        looks: dict[VersionId, DriftLook] = {}
        for version, counts in counted.items():
            drift = watched_as(state, version)
            if drift is None:
                continue
            try:
                one = self._of(version, counts, drift, now_s)
                one.keep_latched(stand.get(version, ()))
                self._waiting += one.tick(counts, now_s)
                looks[version] = one.look()
            except Exception:  # noqa: BLE001 - a mistake of ours in one version must not stop the controller
                _log.exception("the rows of %s were not looked at", version)
                self._watched.pop(version, None)
        with self._lock:
            self._looks |= looks

    def waiting(self) -> list[DriftAlarm]:
        """New alarms that are not saved yet."""
        return list(self._waiting)

    def saved(self, alarms: int) -> None:
        """The first so many are in the store."""
        del self._waiting[:alarms]

    def looks(self) -> Mapping[VersionId, DriftLook]:
        """How the rows of each watched version are, as of the last tick; a version that has not been heard of has none."""
        with self._lock:
            return dict(self._looks)

    def _of(self, version: VersionId, counts: DriftCounts, drift: Drift, now_s: float) -> WatchedVersion:
        known = self._watched.get(version)
        if known is None or known.drift != drift or known.digest != counts.digest:
            known = self._watched[version] = WatchedVersion(version, counts, drift, now_s)
        return known
