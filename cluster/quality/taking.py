"""What becomes of labels that are told: each is counted, or left out for one of few reasons. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cluster.errors import BadInput
from cluster.quality.built import built_loss
from cluster.quality.harm import threshold
from cluster.quality.live import LabelSums, LiveQuality, QualityAlarm, VersionQuality
from cluster.quality.recent import RecentLabels
from cluster.quality.section import LiveLabels
from cluster.rollout.checks.labels import Loss
from cluster.rollout.labels import LabelKey, loss
from cluster.versions import Version
from cluster.watch.catalogue import LabelFault

LabelValue = float | str | None


@dataclass(frozen=True, slots=True)
class LabelTaking:
    """What labels of `model` meet: its `versions` by number, and when it is now. `counted_since_s` is since when the controller
    counts what goes out with a key."""

    model: str
    wanted: LiveLabels
    versions: Mapping[int, Version]
    now_s: float
    counted_since_s: float

    def of(
        self, quality: LiveQuality, recent: RecentLabels, labels: Iterable[tuple[str, LabelValue]], unreadable: int = 0
    ) -> LabelsTaken:
        """Every label on its own: a bad one never takes others along. `unreadable` are those that their sender could not send."""
        sums: dict[int, LabelSums] = {}
        faults = Counter({LabelFault.UNREADABLE: unreadable}) if unreadable else Counter[LabelFault]()
        seen: set[int] = set()
        keys: set[str] = set()
        for text, label in labels:
            try:
                key = LabelKey.parse(text)
            except BadInput:
                faults[LabelFault.NO_KEY] += 1
                continue
            prediction = hash((self.model, key.version, key.prediction))
            fault = self._fault(quality, key, label)
            if fault is None and (prediction in seen or prediction in recent):
                fault = LabelFault.TWICE
            if fault is not None:
                faults[fault] += 1
                continue
            seen.add(prediction)
            keys.add(text)
            delay_s = None if key.answered_s is None else max(self.now_s - key.answered_s, 0.0)
            of_late = key.answered_s is not None and key.answered_s >= self.counted_since_s
            lost = loss(self.wanted, key.answer, number_of(label) or 0.0)
            sums.setdefault(key.version, LabelSums()).add(lost, delay_s, recent=of_late)
        versions, alarms = self._versions(quality, sums)
        all_faults = {fault: quality.faults.get(fault, 0) + faults.get(fault, 0) for fault in {**quality.faults, **faults}}
        after = replace(quality, versions=versions, faults=all_faults)
        counted = frozenset(keys)
        return LabelsTaken(after, recent.adding(seen) if seen else recent, counted, faults, alarms)

    def _fault(self, quality: LiveQuality, key: LabelKey, label: LabelValue) -> LabelFault | None:
        number = number_of(label)
        if number is None:
            return LabelFault.WRONG_TYPE
        if not math.isfinite(number):
            return LabelFault.NOT_FINITE
        if self.wanted.loss is Loss.WRONG and not number.is_integer():
            return LabelFault.WRONG_TYPE
        if key.version not in self.versions:
            return LabelFault.UNKNOWN_VERSION
        if key.answered_s is not None:
            if key.answered_s < math.floor(quality.since_s):
                return LabelFault.REDEFINED
            if self.now_s - key.answered_s > self.wanted.within_s:
                return LabelFault.LATE
        return None

    def _versions(
        self, before: LiveQuality, sums: Mapping[int, LabelSums]
    ) -> tuple[Mapping[int, VersionQuality], Mapping[int, QualityAlarm]]:
        """Each with what was told of it, and which alarms that raised."""
        # Versions that were removed go here: the rest of the state has forgotten them.
        versions = {number: known for number, known in before.versions.items() if number in self.versions}
        alarms: dict[int, QualityAlarm] = {}
        for number, told in sums.items():
            known = versions.get(number, VersionQuality())
            versions[number] = after = self._watched(number, known.adding(told, self.counted_since_s), told)
            if known.alarm is None and after.alarm is not None:
                alarms[number] = after.alarm
        return versions, alarms

    def _watched(self, number: int, quality: VersionQuality, told: LabelSums) -> VersionQuality:
        """With the detector's next look; what is latched stays as it is until somebody clears it."""
        built = built_loss(self.versions[number].quality, self.wanted)
        if built is None or quality.alarm is not None:
            return quality
        limit = built.high + self.wanted.tolerance
        watch = quality.watch.after(told.labelled, told.loss, self.now_s, limit, self.wanted.alike)
        if watch.log_evidence < threshold(self.wanted.false_alarms_a_year):
            return replace(quality, watch=watch)
        labelled, lost = watch.run
        return replace(quality, watch=watch, alarm=QualityAlarm(self.now_s, labelled, lost / labelled, built.mean, limit))


@dataclass(frozen=True, slots=True)
class LabelsTaken:
    """What labels came to: whose keys were counted, why others were not, and by version which alarms they raised."""

    quality: LiveQuality
    recent: RecentLabels
    counted: frozenset[str]
    faults: Mapping[LabelFault, int]
    alarms: Mapping[int, QualityAlarm]


def number_of(label: LabelValue) -> float | None:
    """The label as a number, where it is one or is written as one."""
    if label is None:
        return None
    try:
        return float(label)
    except (ValueError, OverflowError):
        return None
