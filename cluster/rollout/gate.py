"""The gate: what the evidence of a step says about the candidate. Pure.

Alpha is spent as follows. A rollback needs a lower bound above the margin: there may be one in every check of every step, so each
gets alpha / (checks x steps), and a wrong rollback has a chance of at most alpha over the whole rollout. A harmful candidate is
promoted only if the upper bound of the check that it fails is wrong in the last step too, so upper bounds take the whole alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cluster.rollout.evidence import Counts, EvidenceKey
from cluster.rollout.labels import stage_of
from cluster.rollout.record import Rollout, RolloutState
from cluster.rollout.sequential import Interval, excess, mean
from cluster.state import of_rollout


class Verdict(StrEnum):
    """What a check says."""

    PASSED = "passed"
    FAILED = "failed"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Judged:
    """One check: how much worse the candidate is, and what is allowed.

    `ours` and `base` are what was observed of the candidate and of stable: how many, and how many of them (or how much) bad;
    `base` is None where a check needs none.
    """

    name: str
    interval: Interval
    margin: float
    verdict: Verdict
    ours: tuple[int, float]
    base: tuple[int, float] | None
    against: str

    @property
    def observed(self) -> int:
        """How many rows or calls of the candidate it judges."""
        return self.ours[0]

    @property
    def words(self) -> str:
        """The check in one plain sentence."""
        title = self.name.replace("_", " ")
        if self.observed == 0:
            return f"{title}: nothing observed of the candidate yet, limit {_percent(self.margin)}: {self.verdict}"
        low, high = self.interval.low, self.interval.high
        span = f"candidate {_percent(low)} to {_percent(high)} {self.against}"
        return f"{title}: {span}, limit {_percent(self.margin)}: {self.verdict}"

    @property
    def evidence(self) -> str:
        """The words, and the counts that they stand on."""
        stable = f", stable {_share(self.base)}" if self.base is not None else ""
        return f"{self.words} (candidate {_share(self.ours)}{stable})"


def _share(observed: tuple[int, float]) -> str:
    return f"{round(observed[1], 2):.15g} of {observed[0]}"


def _percent(share: float) -> str:
    return f"{round(100 * share, 2) + 0.0:g} %"


def judge(rollout: Rollout, evidence: Mapping[EvidenceKey, Counts]) -> tuple[Judged, ...]:
    """Every check of the plan, on the evidence of the step under way. Nothing before the first step."""
    step = rollout.current
    if step is None or rollout.stable is None:
        return ()
    checks = rollout.plan.checks
    candidate = evidence.get(_key(rollout, rollout.candidate), Counts())
    alone = step.weight >= 100
    stable = _earlier_stable(rollout, evidence) if alone else evidence.get(_key(rollout, rollout.stable), Counts())
    count = sum(check is not None for check in (checks.error_rate, checks.slow, checks.disagreement, checks.labels))
    alpha = rollout.plan.alpha
    alpha_low = alpha / (max(count, 1) * len(rollout.plan.steps))
    judged: list[Judged] = []
    levels = _Levels(alpha_low, alpha, alone)
    if checks.error_rate is not None:
        ours, base = (candidate.rows, candidate.errors), (stable.rows, stable.errors)
        judged.append(_against_stable("error_rate", checks.error_rate.margin, ours, base, levels))
    if checks.slow is not None and rollout.phase is RolloutState.CANARY:
        ours, base = (candidate.calls, candidate.slow), (stable.calls, stable.slow)
        judged.append(_against_stable("slow", checks.slow.margin, ours, base, levels))
    if checks.disagreement is not None and rollout.phase is RolloutState.SHADOW:
        n, differed, margin = candidate.compared, candidate.disagreed, checks.disagreement.margin
        interval = mean(n, differed, alpha_low, alpha)
        verdict = _verdict(interval, margin)
        judged.append(Judged("disagreement", interval, margin, verdict, (n, differed), None, "unlike stable"))
    if checks.labels is not None and rollout.phase is RolloutState.CANARY:
        # Those of every step, so that stable has its own even where the candidate serves alone.
        told, known = (
            evidence.get(EvidenceKey(rollout.model, stage_of(rollout), version), Counts())
            for version in (rollout.candidate, rollout.stable)
        )
        ours_lost, base_lost = (told.labelled, told.loss), (known.labelled, known.loss)
        split = _Levels(alpha_low, alpha, alone=False)
        judged.append(_against_stable("label_loss", checks.labels.margin, ours_lost, base_lost, split))
    return tuple(judged)


def _key(rollout: Rollout, version: int) -> EvidenceKey:
    return EvidenceKey(rollout.model, rollout.stage, version)


def _earlier_stable(rollout: Rollout, evidence: Mapping[EvidenceKey, Counts]) -> Counts:
    """What stable did in the steps before, warming included, for a step in which the candidate serves alone.

    What stable answers in such a step are the requests that the candidate failed: no fair sample.
    """
    earlier = Counts()
    for key, counts in evidence.items():
        if of_rollout(key, rollout) and key.version == rollout.stable and key.stage != rollout.stage:
            earlier += counts
    return earlier


@dataclass(frozen=True, slots=True)
class _Levels:
    """How alpha is spent on either bound, and whether the candidate serves alone."""

    low: float
    high: float
    alone: bool


def _against_stable(name: str, margin: float, ours: tuple[int, float], base: tuple[int, float], levels: _Levels) -> Judged:
    if levels.alone and base[0] == 0:
        # Stable was never observed: it is taken to be flawless, so that a candidate must keep the margin on its own.
        interval = mean(*ours, levels.low, levels.high)
        against = "(stable was not observed)"
    else:
        interval = excess(*ours, *base, alpha_low=levels.low, alpha_high=levels.high)
        against = "worse than stable"
    return Judged(name, interval, margin, _verdict(interval, margin), ours, base, against)


def _verdict(interval: Interval, margin: float) -> Verdict:
    if interval.low > margin:
        return Verdict.FAILED
    return Verdict.PASSED if interval.high < margin else Verdict.WAITING
