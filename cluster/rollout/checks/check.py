"""What a check of a rollout is: settings of a plan that say when they apply, what they judge, how, and in which words."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from cluster.rollout.evidence import Counts
from cluster.rollout.sequential import Interval, excess, mean
from cluster.rollout.steps import Step
from cluster.section import Section
from cluster.versions import Version


class Verdict(StrEnum):
    """What a check says."""

    PASSED = "passed"
    FAILED = "failed"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Levels:
    """How alpha is spent on either bound, and whether the candidate answers alone."""

    low: float
    high: float
    alone: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """One check: how much worse the candidate is, and what is allowed.

    `ours` and `base` are what was observed of the candidate and of stable: how many, and how many of them (or how much) bad;
    `base` is None where a check needs none. `unless` says whose evidence alone stands in the way, if that is so (callers.py).
    """

    name: str
    interval: Interval
    margin: float
    verdict: Verdict
    ours: tuple[int, float]
    base: tuple[int, float] | None
    against: str
    unless: str = ""

    @property
    def observed(self) -> int:
        """How many rows or calls of the candidate it judges."""
        return self.ours[0]

    @property
    def words(self) -> str:
        """The check in one plain sentence, of which the verdict is the end."""
        title = self.name.replace("_", " ")
        if self.observed == 0:
            return f"{title}: nothing observed of the candidate yet, limit {_percent(self.margin)}: {self.verdict}"
        low, high = self.interval.low, self.interval.high
        span = f"candidate {_percent(low)} to {_percent(high)} {self.against}"
        unless = f", but {self.unless}" if self.unless else ""
        return f"{title}: {span}, limit {_percent(self.margin)}{unless}: {self.verdict}"

    @property
    def evidence(self) -> str:
        """The words, and the counts that they stand on."""
        stable = f", stable {_share(self.base)}" if self.base is not None else ""
        return f"{self.words} (candidate {_share(self.ours)}{stable})"


class Check(Section):
    """The candidate may be worse than stable by `margin` at most (a difference of shares, 0.01 is one point)."""

    name: ClassVar[str]
    whole_rollout: ClassVar[bool] = False
    """Whether it judges what was told of all steps at once, instead of the step under way."""

    margin: float = Field(gt=0, lt=1)

    @abstractmethod
    def applies(self, step: Step) -> bool:
        """Whether it is judged in this step."""

    @abstractmethod
    def observed(self, counts: Counts) -> tuple[int, float]:
        """How many it looks at, and how many of them, or how much, were bad."""

    def lacks(self, steps: Sequence[Step]) -> str:
        """What a plan of these steps lacks to be judged so; empty where nothing."""
        del steps
        return ""

    def require(self, stable: Version) -> None:
        """Raises Conflict where stable has not the outputs that it judges."""

    def judged(self, ours: Counts, base: Counts, levels: Levels) -> Judged:
        """The candidate against stable, on these counts of either."""
        mine, its = self.observed(ours), self.observed(base)
        if levels.alone and its[0] == 0:
            # Stable was never observed: it is taken to be flawless, so that a candidate must keep the margin on its own.
            interval, against = mean(*mine, levels.low, levels.high), "(stable was not observed)"
        else:
            interval = excess(*mine, *its, alpha_low=levels.low, alpha_high=levels.high)
            against = "worse than stable"
        return Judged(self.name, interval, self.margin, self.verdict(interval), mine, its, against)

    def verdict(self, interval: Interval) -> Verdict:
        """What is proven of a difference that lies in the interval."""
        if interval.low > self.margin:
            return Verdict.FAILED
        return Verdict.PASSED if interval.high < self.margin else Verdict.WAITING


def _share(observed: tuple[int, float]) -> str:
    return f"{round(observed[1], 2):.15g} of {observed[0]}"


def _percent(share: float) -> str:
    return f"{round(100 * share, 2) + 0.0:g} %"
