"""What is kept of late labels: sums by version. Nothing waits for its label, and no label is kept."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cluster.quality.harm import HarmWatch
from cluster.rollout.sequential import Interval, mean
from cluster.watch.catalogue import LABEL_DELAYS_S, LabelFault

SHOWN_ALPHA = 0.05
MARKS_KEPT = 200
"""Of sources, a model: those that were heard of last."""


@dataclass(frozen=True, slots=True)
class QualityAlarm:
    """Since `at_s` it is proven that answers lose more than `limit`. What was seen then: `loss` is the mean of the last
    `labelled` answers, about since when they are worse; `built` that of the build."""

    at_s: float
    labelled: int
    loss: float
    built: float
    limit: float


@dataclass(frozen=True, slots=True)
class VersionQuality:
    """Of one version: how many answers have met their label and what they lost in all; how long labels took (how many in each of
    LABEL_DELAYS_S, and in all, in seconds). `recent` of them are of answers given since `recent_since_s`, when what goes out with
    a key began to be counted."""

    labelled: int = 0
    loss: float = 0.0
    delays: tuple[int, ...] = (0,) * (len(LABEL_DELAYS_S) + 1)
    delay_s: float = 0.0
    recent: int = 0
    recent_since_s: float = 0.0
    watch: HarmWatch = field(default_factory=HarmWatch)
    alarm: QualityAlarm | None = None

    @property
    def interval(self) -> Interval:
        """Where the mean loss lies, at all times at once, with 95 % confidence."""
        return mean(self.labelled, self.loss, SHOWN_ALPHA / 2, SHOWN_ALPHA / 2)

    def adding(self, told: LabelSums, since_s: float) -> VersionQuality:
        """With what was told, but for the watch. `since_s` is when the controller began to count keys."""
        recent = self.recent if self.recent_since_s == since_s else 0
        return replace(
            self,
            labelled=self.labelled + told.labelled,
            loss=self.loss + told.loss,
            delays=tuple(a + b for a, b in zip(self.delays, told.delays, strict=True)),
            delay_s=self.delay_s + told.delay_s,
            recent=recent + told.recent,
            recent_since_s=since_s,
        )

    def cleared(self) -> VersionQuality:
        """Without its alarm: what is watched for begins anew."""
        return replace(self, watch=HarmWatch(), alarm=None)


@dataclass(slots=True)
class LabelSums:
    """Of one version, in one request."""

    labelled: int = 0
    loss: float = 0.0
    delays: list[int] = field(default_factory=lambda: [0] * (len(LABEL_DELAYS_S) + 1))
    delay_s: float = 0.0
    recent: int = 0

    def add(self, loss: float, delay_s: float | None, *, recent: bool) -> None:
        """One label; `delay_s` is None where its key does not tell when the answer was given."""
        self.labelled += 1
        self.loss += loss
        self.recent += recent
        if delay_s is not None:
            self.delays[bisect_left(LABEL_DELAYS_S, delay_s)] += 1
            self.delay_s += delay_s


@dataclass(frozen=True, slots=True)
class LiveQuality:
    """Of one model: its versions', how many labels were not counted and why, and how far each source was counted.

    Answers given before `since_s`, when the losses were last defined anew, are left out.
    """

    since_s: float = 0.0
    versions: Mapping[int, VersionQuality] = field(default_factory=dict)
    faults: Mapping[LabelFault, int] = field(default_factory=dict)
    marks: Mapping[str, int] = field(default_factory=dict)

    def defined(self, now_s: float) -> LiveQuality:
        """After the losses were defined anew: what was summed says nothing any more, but who was heard of."""
        return LiveQuality(since_s=now_s, faults=self.faults, marks=self.marks)

    def marked(self, source: str, sequence: int) -> LiveQuality:
        """With the source counted so far, as the one that was heard of last."""
        marks = {name: last for name, last in self.marks.items() if name != source} | {source: sequence}
        return replace(self, marks=dict(list(marks.items())[-MARKS_KEPT:]))
