"""One version that is watched: its detectors, its last rows beside its profile, and what its alarms say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from cluster.drift.alarms import DriftAlarm, alarm_key
from cluster.drift.counts import DriftReference
from cluster.drift.detectors import AlarmBudget, Alarmed, Detectors
from cluster.drift.inbox import DriftCounts
from cluster.drift.kinds import KINDS, RateKind
from cluster.drift.section import Drift
from cluster.drift.sizes import Floats, js, psi, shares
from cluster.versions import VersionId

# Of the last rows each counts half as much as one that came so many later.
HALF_ROWS = 2000.0
# Sizes of fewer rows are noise.
LEAST_ROWS = 200.0
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class FeatureSize:
    """How far one feature's last rows are from its profile; `before` and `after` are shares of rows, by bin."""

    feature: str
    answer: bool
    psi: float
    js: float
    before: tuple[float, ...]
    after: tuple[float, ...]
    bins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LastRows:
    """How about the last 3,000 rows of a version were: `rows` by feature, [f], and their histograms, [f, 16], beside the
    profile's. Nobody changes the arrays."""

    reference: DriftReference
    rows: Floats
    histogram: Floats

    def farthest(self, most: int) -> list[int]:
        """The places of the features of which there are enough rows, those that are farthest off first."""
        enough = self.rows >= LEAST_ROWS
        far = np.where(enough, js(self.reference.histogram, self.histogram), -1.0)
        return [int(place) for place in np.argsort(-far, kind="stable")[:most] if enough[place]]

    def sizes(self, places: list[int]) -> list[FeatureSize]:
        """Of all at once: some thousand features may change together."""
        if not places:
            return []
        before, after = self.reference.histogram[places], self.histogram[places]
        parts = psi(before, after), js(before, after), shares(before), shares(after)
        features = [self.reference.features[place] for place in places]
        return [
            FeatureSize(feature.name, feature.answer, one_psi, one_js, tuple(was), tuple(now), feature.bins)
            for feature, one_psi, one_js, was, now in zip(
                features, *(part.round(_DIGITS).tolist() for part in parts), strict=True
            )
        ]


@dataclass(frozen=True, slots=True)
class DriftLook:
    """How a version's rows are now. `rows` were counted since `since_s` (Unix); `largest` is the largest Jensen-Shannon distance
    of any feature, 0 where there are too few rows. `last` is None where nothing is watched of the version."""

    version: VersionId
    since_s: float
    rows: int
    features: int
    profile_rows: int
    largest: float = 0.0
    last: LastRows | None = None

    def sizes(self, most: int) -> list[FeatureSize]:
        """Of the `most` features that are farthest off, the largest first. Worked out when asked for: seldom anybody looks."""
        return self.last.sizes(self.last.farthest(most)) if self.last is not None else []


class WatchedVersion:
    """Used from one thread."""

    def __init__(self, version: VersionId, counts: DriftCounts, drift: Drift, now_s: float) -> None:
        self.version, self.drift, self.digest = version, drift, counts.digest
        self.reference = counts.reference
        self._detectors = Detectors(self.reference, drift.margin, AlarmBudget.a_year(drift.false_alarms_a_year), drift.alike)
        self._keys = [alarm_key(version, one.name, answer=one.answer) for one in self.reference.features]
        self._latched = np.zeros(len(self._keys), np.bool_)
        self._since_s, self._rows = now_s, 0
        self._last_hits = np.zeros(len(self.reference.hits))
        self._last = LastRows(self.reference, np.zeros(len(self._keys)), np.zeros(self.reference.histogram.shape))

    def keep_latched(self, alarms: Collection[str]) -> None:
        """Those of its alarms stand: their features are left alone, and whichever has none any more is watched afresh."""
        if not alarms and not self._latched.any():
            return
        for place, key in enumerate(self._keys):
            if (key in alarms) is not bool(self._latched[place]):
                self._latched[place] = key in alarms
                (self._detectors.latch if key in alarms else self._detectors.clear)(place)

    def tick(self, counts: DriftCounts, now_s: float) -> list[DriftAlarm]:
        """Takes what was counted since the last tick; returns the new alarms."""
        keep = 0.5 ** (counts.rows / HALF_ROWS)
        self._rows += int(counts.rows.max(initial=0))
        self._last_hits = self._last_hits * keep[self.reference.feature] + counts.hits
        last = self._last
        self._last = LastRows(self.reference, last.rows * keep + counts.rows, last.histogram * keep[:, None] + counts.histogram)
        found = self._detectors.tick(counts.rows, counts.hits)
        for alarmed in found:
            self._latched[alarmed.feature] = True
        sizes = self._last.sizes([alarmed.feature for alarmed in found])
        return [self._alarm(alarmed, size, now_s) for alarmed, size in zip(found, sizes, strict=True)]

    def look(self) -> DriftLook:
        """How it is now."""
        features, last = self.reference.features, self._last
        profile_rows = max((feature.rows for feature in features), default=0)
        enough = last.rows >= LEAST_ROWS
        largest = float(js(self.reference.histogram[enough], last.histogram[enough]).max(initial=0.0).round(_DIGITS))
        return DriftLook(self.version, self._since_s, self._rows, len(features), profile_rows, largest, last)

    def _alarm(self, alarmed: Alarmed, size: FeatureSize, now_s: float) -> DriftAlarm:
        return DriftAlarm(
            version=self.version,
            feature=size.feature,
            answer=size.answer,
            kind=KINDS[int(self.reference.kind[alarmed.rate])],
            words=self._words(alarmed.rate),
            since_s=now_s,
            episode_s=now_s,
            psi=size.psi,
            js=size.js,
            before=size.before,
            after=size.after,
            bins=size.bins,
            together=alarmed.together,
        )

    def _words(self, rate: int) -> str:
        reference = self.reference
        feature = int(reference.feature[rate])
        before = reference.hits[rate] / max(reference.features[feature].rows, 1)
        after = self._last_hits[rate] / max(self._last.rows[feature], 1.0)
        return f"{self._what(rate)} in {_percent(after)} of the last rows, {_percent(before)} in the profile"

    def _what(self, rate: int) -> str:
        match KINDS[int(self.reference.kind[rate])]:
            case RateKind.MISSING:
                return "missing"
            case RateKind.OUT_OF_RANGE:
                return "outside the profile's edges"
            case RateKind.UNSEEN:
                return "a category without a name"
            case RateKind.OUTLIER:
                return "an outlier"
            case RateKind.INPUT | RateKind.OUTPUT:
                name = self.reference.category[rate]
                return repr(name) if name else f"at most {self.reference.cut[rate]:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
