"""The e-detector of a version's losses: when is it proven that they have become greater than a limit?

Shin, Ramdas and Rinaldo, "E-detectors", NEJSDS 2 (2024), of the Shiryaev-Roberts kind. As long as the conditional mean of losses
in [0, 1] is at most `limit`, the likelihood ratio L of any greater mean, over the labels of a tick, is on average at most 1 (the
likelihood of a bounded loss lies below its chord: see `cluster/rollout/sequential.py`). So M <- L (M + 1) is on average at most
the number of ticks, and the average number of ticks until M reaches c is at least c, however dependent losses are. Ticks without
labels count nothing. It may be looked at within a tick as well: it begins anew only with the next one.

Unlike an interval for all time it forgets: a million good answers do not hide that the world has changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

TICK_S = 3600.0
TICKS_A_YEAR = 365.25 * 86_400 / TICK_S
VERSIONS_AT_ONCE = 2  # of one model: labels come of the stable one, and of a candidate or the one before
ODDS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""What is looked for: losses whose odds are so many times those of the limit. The average of their M is an e-detector too."""


@dataclass(frozen=True, slots=True)
class HarmWatch:
    """Of one version against one `limit`, where so many labels may be `alike`.

    `log_m` has a number for each of ODDS, over the ticks before `tick`, in which `labelled` labels lost `loss`; empty before the
    first tick ended. `run_labelled` and `run_loss` are of the ticks before it, back to when nothing spoke against the version:
    about since when it is worse.
    """

    limit: float = 1.0
    alike: int = 1
    tick: int = 0
    labelled: int = 0
    loss: float = 0.0
    log_m: tuple[float, ...] = ()
    run_labelled: int = 0
    run_loss: float = 0.0

    def after(self, labelled: int, loss: float, now_s: float, limit: float, alike: int = 1) -> HarmWatch:
        """With so many labels more, told now. Another limit asks another question, and begins anew.

        A clock that is set back goes on with the tick that it was in.
        """
        tick = int(now_s // TICK_S)
        if (limit, alike) != (self.limit, self.alike):
            return HarmWatch(limit, alike, tick, labelled, loss)
        if tick <= self.tick:
            return replace(self, labelled=self.labelled + labelled, loss=self.loss + loss)
        log_m = self._now() if self.labelled else self.log_m
        if self.log_evidence <= 0:
            return HarmWatch(limit, alike, tick, labelled, loss, log_m)
        return HarmWatch(limit, alike, tick, labelled, loss, log_m, *self.run)

    @property
    def run(self) -> tuple[int, float]:
        """How many labels came since nothing spoke against the version, and what they lost."""
        return self.run_labelled + self.labelled, self.run_loss + self.loss

    @property
    def log_evidence(self) -> float:
        """The logarithm of the average M now; 0 where nothing can be greater than the limit."""
        logs = self._now()
        if not logs:
            return 0.0
        most = max(logs)
        return most + math.log(sum(math.exp(each - most) for each in logs) / len(logs))

    def _now(self) -> tuple[float, ...]:
        """M of each of ODDS, with the tick under way."""
        if not 0 < self.limit < 1:
            return ()
        before = self.log_m or (-math.inf,) * len(ODDS)
        return tuple(self._ratio(odds) + _log_plus_one(log_m) for odds, log_m in zip(ODDS, before, strict=True))

    def _ratio(self, odds: float) -> float:
        """log L of the tick under way. Groups of so many that are alike are as one value in [0, 1] each: L stays below 1."""
        worse = odds * self.limit / (1 - self.limit)
        mean = worse / (1 + worse)
        kept = self.labelled - self.loss
        log_l = self.loss * math.log(mean / self.limit) + kept * math.log((1 - mean) / (1 - self.limit))
        return log_l / self.alike


def threshold(false_alarms_a_year: float) -> float:
    """What `log_evidence` must reach, so that a model's versions have at most so many false alarms a year, on average."""
    return math.log(TICKS_A_YEAR * VERSIONS_AT_ONCE / false_alarms_a_year)


def _log_plus_one(log_m: float) -> float:
    """log(M + 1)."""
    return max(log_m, 0.0) + math.log1p(math.exp(-abs(log_m)))
