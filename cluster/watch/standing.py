"""What the controller itself knows, as gauges: rollouts, replicas, streams, batches; and labels, as counters."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from cluster.fleet.desired import needed
from cluster.ports import AppState, AppStatus, FeedKind, FeedState
from cluster.quality.built import built_loss
from cluster.rollout.gate import judge
from cluster.rollout.record import Rollout
from cluster.routing.table import is_ready, shares
from cluster.schedule.fires import FireState
from cluster.state import Feed, Model, State, feed_key
from cluster.versions import VersionId
from cluster.watch.catalogue import (
    BATCH_DELAY,
    BATCH_LAST_FAILED,
    BATCH_LAST_SUCCESS,
    BUILT_LOSS,
    BY_NAME,
    CHECKPOINTS_AWAY,
    DRIFT_ALARMS,
    DRIFT_SIZE,
    KEY_EXPIRES,
    LABEL_DELAY,
    LABEL_FAULTS,
    LABEL_LOSS,
    LABELS,
    LIVE_LOSS_HIGH,
    LIVE_LOSS_LOW,
    QUALITY_ALARM,
    REPLICAS,
    REPLICAS_WANTED,
    ROLLOUT_CHECK_HIGH,
    ROLLOUT_CHECK_LOW,
    ROLLOUT_HELD,
    ROLLOUT_STATE,
    ROLLOUT_WEIGHT,
    STABLE_VERSION,
    STREAM_READY,
    TROUBLES,
    VERSION_READY,
    Metric,
)
from cluster.watch.reports import Buckets, Series

if TYPE_CHECKING:  # numpy, which who only asks goes without
    from cluster.drift.watched import DriftLook

NAMING = ("model", "version", FeedKind.STREAM, FeedKind.BATCH)
ALL_KEYS = 10_000  # basis points

_log = logging.getLogger(__name__)


def standing(
    state: State,
    apps: Mapping[str, AppState],
    feeds: Mapping[str, FeedState],
    troubles: int,
    now_s: float,
    looks: Mapping[VersionId, DriftLook] = MappingProxyType({}),
) -> dict[Series, float]:
    """All of them now; `troubles` is how many things stand in the controller's way, `looks` are at the rows that are watched."""
    found: dict[Series, float] = {_series(TROUBLES): troubles, _series(CHECKPOINTS_AWAY): len(state.checkpoints_away)}
    for name, model in state.models.items():
        try:
            found |= _of_model(state, model, apps, now_s)
        except Exception as fault:  # noqa: BLE001 - what stops one model must not hide all others
            _log.error("what is known of model %s is not measured", name, exc_info=fault)
    for feed in state.feeds.values():
        if feed.spec.kind is FeedKind.STREAM:
            seen = feeds.get(feed.spec.name)
            found[_series(STREAM_READY, feed.spec.name)] = seen is not None and seen.app.status is AppStatus.READY
        else:
            found |= _of_batch(feed)
    return found | _of_keys(state, now_s) | _of_drift(state, looks)


def standing_delays(state: State) -> dict[Series, Buckets]:
    """How long labels took, by version."""
    return {
        _series(LABEL_DELAY, model.name, str(number)): Buckets(seen.delays, seen.delay_s)
        for model in state.models.values()
        for number, seen in model.quality.versions.items()
        if sum(seen.delays)
    }


def _of_model(state: State, model: Model, apps: Mapping[str, AppState], now_s: float) -> dict[Series, float]:
    found, rollout = dict[Series, float](), state.rollout_of(model.name)
    if model.stable is not None:
        found[_series(STABLE_VERSION, model.name)] = model.stable
    if rollout is not None:
        found |= _of_rollout(state, rollout)
    found |= _of_labels(state, model)
    for number in needed(state, model, now_s):
        app = apps.get(VersionId(model.name, number).app)
        labels = model.name, str(number)
        found[_series(VERSION_READY, *labels)] = is_ready(app)
        found[_series(REPLICAS, *labels)] = app.replicas if app is not None else 0
        if app is not None:
            found[_series(REPLICAS_WANTED, *labels)] = app.target_replicas
    return found


class Living:
    """Which series are about what is still there, at one moment. Each pair of names is looked up once: a hundred thousand series
    are of some thousand versions."""

    def __init__(self, state: State, apps: Mapping[str, AppState], now_s: float) -> None:
        self._state, self._apps, self._now_s = state, apps, now_s
        self._known: dict[tuple[str, ...], bool] = {}
        self._places: dict[str, tuple[int, ...]] = {}

    def has(self, series: Series) -> bool:
        """What has an empty name was nothing that was served."""
        about = self.about(series)
        found = self._known.get(about)
        if found is None:
            found = self._known[about] = self._lives(series.named)
        return found

    def about(self, series: Series) -> tuple[str, ...]:
        """What it is about, as a key: all of its labels that name something."""
        metric, labels = series
        places = self._places.get(metric)
        if places is None:
            named = BY_NAME[metric].labels
            places = self._places[metric] = tuple(place for place, label in enumerate(named) if label in NAMING)
        return (*(BY_NAME[metric].labels[place] for place in places), *(labels[place] for place in places))

    def _lives(self, named: Mapping[str, str]) -> bool:
        model, version = named.get("model", ""), named.get("version", "")
        if model:
            known = self._state.models.get(model)
            if known is None:
                return False
            if (
                version.isdecimal()
                and VersionId(model, int(version)).app not in self._apps
                and int(version) not in needed(self._state, known, self._now_s)
            ):
                return False
        feeds = ((kind, named.get(kind, "")) for kind in (FeedKind.STREAM, FeedKind.BATCH))
        return all(feed_key(kind, name) in self._state.feeds for kind, name in feeds if name)


def _of_labels(state: State, model: Model) -> dict[Series, float]:
    found: dict[Series, float] = {_series(LABEL_FAULTS, model.name, why): count for why, count in model.quality.faults.items()}
    for number, seen in model.quality.versions.items():
        labels = model.name, str(number)
        found[_series(LABELS, *labels)], found[_series(LABEL_LOSS, *labels)] = seen.labelled, seen.loss
        interval = seen.interval
        found[_series(LIVE_LOSS_LOW, *labels)], found[_series(LIVE_LOSS_HIGH, *labels)] = interval.low, interval.high
        found[_series(QUALITY_ALARM, *labels)] = seen.alarm is not None
        version = state.versions.get(VersionId(model.name, number))
        built = built_loss(version.quality, model.labels) if version is not None and model.labels is not None else None
        if built is not None:
            found[_series(BUILT_LOSS, *labels)] = built.high
    return found


def _of_rollout(state: State, rollout: Rollout) -> dict[Series, float]:
    model = rollout.model
    found: dict[Series, float] = {_series(ROLLOUT_STATE, model, rollout.state): 1}
    if rollout.ended:
        return found
    found[_series(ROLLOUT_HELD, model)] = rollout.held
    found[_series(ROLLOUT_WEIGHT, model)] = shares(rollout)[0] / ALL_KEYS
    for check in judge(rollout, state.evidence):
        found[_series(ROLLOUT_CHECK_LOW, model, check.name)] = check.interval.low
        found[_series(ROLLOUT_CHECK_HIGH, model, check.name)] = check.interval.high
    return found


def _of_keys(state: State, now_s: float) -> dict[Series, float]:
    """Of each name the last end; who has a key without one needs no new one."""
    ends: dict[str, float] = {}
    for key in state.keys.values():
        if key.lives(now_s):
            ends[key.name] = max(ends.get(key.name, 0.0), math.inf if key.expires_s is None else key.expires_s)
    return {_series(KEY_EXPIRES, name): end_s for name, end_s in ends.items() if end_s < math.inf}


def _of_drift(state: State, looks: Mapping[VersionId, DriftLook]) -> dict[Series, float]:
    """Of the versions that were heard of, and of those whose alarms stand."""
    found: dict[Series, float] = {}
    alarms = Counter(alarm.version for alarm in state.alarms.values())
    for version in looks.keys() | alarms.keys():
        labels = version.model, str(version.number)
        found[_series(DRIFT_ALARMS, *labels)] = alarms[version]
        if version in looks:
            found[_series(DRIFT_SIZE, *labels)] = looks[version].largest
    return found


def _of_batch(feed: Feed) -> dict[Series, float]:
    name, found = feed.spec.name, dict[Series, float]()
    begun = [fire for fire in feed.fires if fire.submitted_s and not fire.by]
    if begun:
        found[_series(BATCH_DELAY, name)] = max(begun[-1].submitted_s - begun[-1].at_s, 0.0)
    ended = [fire for fire in feed.fires if fire.state in (FireState.SUCCEEDED, FireState.FAILED)]
    if ended:
        found[_series(BATCH_LAST_FAILED, name)] = ended[-1].state is FireState.FAILED
    good = [fire.ended_s for fire in ended if fire.state is FireState.SUCCEEDED and fire.ended_s is not None]
    if good:
        found[_series(BATCH_LAST_SUCCESS, name)] = max(good)
    return found


def _series(metric: Metric, *labels: str) -> Series:
    return Series(metric.name, tuple(str(label) for label in labels))
