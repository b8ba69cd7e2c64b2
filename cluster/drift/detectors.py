"""E-detectors over counts: they may look after every tick, for years, and still raise few false alarms.

Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (2023; arXiv 2203.03532), in
the form of Shiryaev and Roberts. Of k hits in n rows of a tick, a null of a mean of at most mu, and an alternative p above it,
the e-value is L = (p/mu)^k ((1-p)/(1-mu))^(n-k), and M <- L (M + 1). As long as each row's mean, given all that was before,
keeps to the null, the expected M after T ticks is at most T, so that M ever reaches c with a chance of at most T/c, whatever the
rows have to do with each other. The mean of all M has the same bound: a single one that reaches c times their number lifts it to
c by itself, and many small ones do so together. So one test of the mean is all, and single ones are named where they are the
cause.

Rows are seldom independent: one call brings a hundred of one customer. Groups of at most g rows that may be alike in any way
count as one row each: hits and rows are divided by g, which is a supermartingale still, as of one value in [0, 1] for each group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.drift.counts import DriftReference, Numbers
from cluster.drift.tolerance import Floats, tolerated

# How far alternatives lie from the null, in log odds.
STEPS = (0.2, 0.5, 1.0, 2.0)
TICK_S = 10.0
TICKS_A_YEAR = 365.25 * 86400 / TICK_S
# Versions of a model that are watched at the same time: the stable one, and a candidate.
VERSIONS_AT_ONCE = 2
_MOST_FOR_PROFILES = 0.1


@dataclass(frozen=True, slots=True)
class AlarmBudget:
    """What false alarms may cost: `threshold` is that of the mean of all detectors, `delta` the chance that is left to
    the profile's own error."""

    threshold: float
    delta: float

    @classmethod
    def over(cls, ticks: float, chance: float) -> AlarmBudget:
        """At most that chance of an alarm within so many ticks; or so many alarms, where it is above 1."""
        delta = min(chance, _MOST_FOR_PROFILES) / 2
        return cls(ticks / (chance - delta), delta)

    @classmethod
    def a_year(cls, false_alarms: float) -> AlarmBudget:
        """At most so many a year, for each of the versions of a model that are watched at once."""
        return cls.over(TICKS_A_YEAR, false_alarms / VERSIONS_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Alarmed:
    """A feature whose alarm is new: its place, and the place of the rate that is farthest off. `together`: it is one of many that
    are off a little, of which none would be an alarm by itself."""

    feature: int
    rate: int
    together: bool


class Detectors:
    """All detectors of one version: [r, 2, a] for r rates, both sides, a alternatives. A feature's latch at its alarm, and are
    left alone until it is cleared. Used from one thread."""

    def __init__(self, reference: DriftReference, margin: float, budget: AlarmBudget, alike: int = 1) -> None:
        """`alike`: so many rows at most have to do with each other."""
        self._feature, self._features = reference.feature, len(reference.features)
        low, high = tolerated(reference, margin, budget.delta)
        hit, miss = _weights(low, high)
        self._hit, self._miss = hit / alike, miss / alike
        self._log_m: Floats = np.full(self._hit.shape, -np.inf)
        self._log_threshold = math.log(budget.threshold)
        self._latched: npt.NDArray[np.bool_] = np.zeros(self._features, np.bool_)

    @property
    def count(self) -> int:
        """How many detectors there are, alternatives included."""
        return int(self._log_m.size)

    def latch(self, feature: int) -> None:
        """Leaves the feature alone: its alarm is known."""
        self._latched[feature] = True

    def clear(self, feature: int) -> None:
        """Begins anew with the feature; all others go on."""
        self._latched[feature] = False
        self._log_m[self._feature == feature] = -np.inf

    def tick(self, rows: Numbers, hits: Numbers) -> list[Alarmed]:
        """Takes what was counted since the last tick, `rows` [f] and `hits` [r]; returns the new alarms, which are latched."""
        live = ~self._latched[self._feature] & (rows[self._feature] > 0)
        if not live.any():
            return []
        seen, missed = hits[live], (rows[self._feature] - hits)[live]
        log_l = seen[:, None, None] * self._hit[live] + missed[:, None, None] * self._miss[live]
        self._log_m[live] = log_l + np.logaddexp(0.0, self._log_m[live])
        return self._alarms()

    def _alarms(self) -> list[Alarmed]:
        of_rate = _log_sum(self._log_m.reshape(len(self._log_m), -1))
        of_rate[self._latched[self._feature]] = -np.inf
        needed = self._log_threshold + math.log(self.count)  # of the sum of all
        found = [
            self._alarmed(of_rate, int(np.searchsorted(self._feature, feature)), needed)
            for feature in np.unique(self._feature[of_rate >= needed])
        ]
        while float(_log_sum(of_rate[None, :])[0]) >= needed:
            found.append(self._alarmed(of_rate, int(np.argmax(of_rate)), needed))
        return found

    def _alarmed(self, of_rate: Floats, rate: int, needed: float) -> Alarmed:
        """Latches the feature that has this rate, and takes it out."""
        feature = int(self._feature[rate])
        first, end = np.searchsorted(self._feature, [feature, feature + 1])
        worst = int(first + np.argmax(of_rate[first:end]))
        alarmed = Alarmed(feature, worst, together=bool(of_rate[worst] < needed))
        self.latch(feature)
        of_rate[first:end] = -np.inf
        return alarmed


def _weights(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """What a hit and a miss add to log L, [r, 2, a]: alternatives below `low`, and above `high`. Where the null is all there is
    each takes from it instead, so that it stays at rest."""
    ends = np.stack([low, high], axis=1)[:, :, None]
    steps = np.array([STEPS, STEPS]) * np.array([[-1.0], [1.0]])
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        other = 1 / (1 + np.exp(-(np.log(ends) - np.log1p(-ends) + steps)))
        hit, miss = np.log(other / ends), np.log((1 - other) / (1 - ends))
    open_ = np.broadcast_to((ends > 0) & (ends < 1), hit.shape)
    return np.where(open_, hit, -1.0), np.where(open_, miss, -1.0)


def _log_sum(values: Floats) -> Floats:
    """log of the sum of exp, along the last axis."""
    most = values.max(axis=-1, keepdims=True, initial=-np.inf)
    safe = np.where(np.isfinite(most), most, 0.0)
    with np.errstate(divide="ignore"):
        total: Floats = (safe + np.log(np.exp(values - safe).sum(axis=-1, keepdims=True)))[..., 0]
    return total
