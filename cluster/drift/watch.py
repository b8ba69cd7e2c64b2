"""Watches the versions that score: takes what scorers counted, and raises alarms, about each ten seconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from cluster.drift.alarms import DriftAlarm
from cluster.drift.counts import DriftReport
from cluster.drift.detectors import TICK_S
from cluster.drift.inbox import DriftCounts, DriftInbox
from cluster.drift.section import Drift
from cluster.drift.watched import DriftLook, WatchedVersion
from cluster.state import State
from cluster.versions import VersionId

LOOKED_AT_MOST = 20

_DEFAULT = Drift()
_log = logging.getLogger(__name__)


class DriftWatch:
    """`take` and `looks` may be called from any thread, all else from one. In memory: what is counted begins anew with each
    controller, and alarms are the state's.

    There is at most one tick of the detectors in ten seconds of the clock. One that jumps forward brings one tick, not many, and
    one that is set back does too; a tick without rows changes nothing.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._inbox = DriftInbox()
        self._watched: dict[VersionId, WatchedVersion] = {}
        self._waiting: list[DriftAlarm] = []
        self._ticked_s = clock()
        self._lock = threading.Lock()
        self._looks: dict[VersionId, DriftLook] = {}

    def take(self, report: DriftReport) -> None:
        """See `DriftInbox.take`."""
        self._inbox.take(report)

    def tick(self, state: State) -> None:
        """Ticks the detectors of the versions that are stable, or a rollout's candidate, where it is time."""
        now_s = self._clock()
        if 0 <= now_s - self._ticked_s < TICK_S:
            return
        self._ticked_s = now_s
        watched = watched_versions(state)
        counted = self._inbox.drain(lambda version: version in state.versions)
        self._watched = {version: one for version, one in self._watched.items() if version in watched}
        stand = state.alarms.keys() | {alarm.key for alarm in self._waiting}
        for version, counts in counted.items():
            if version not in watched:
                continue
            try:
                one = self._of(version, counts, watched[version], now_s)
                one.keep_latched(stand)
                self._waiting += one.tick(counts, now_s)
            except Exception:  # noqa: BLE001 - a mistake of ours in one version must not stop the controller
                _log.exception("the rows of %s were not looked at", version)
                self._watched.pop(version, None)
        looks = {version: one.look(LOOKED_AT_MOST) for version, one in self._watched.items()}
        for version in self._inbox.without_profile() & watched.keys() - looks.keys():
            looks[version] = DriftLook(version, now_s, rows=0, features=0, profile_rows=0, sizes=())
        with self._lock:
            self._looks = looks

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


def watched_versions(state: State) -> dict[VersionId, Drift]:
    """Whose rows are watched, and how."""
    found: dict[VersionId, Drift] = {}
    for name, model in state.models.items():
        rollout = state.active(name)
        for number in {model.stable, rollout.candidate if rollout is not None else None} - {None}:
            found[VersionId(name, number or 0)] = model.drift or _DEFAULT
    return found
