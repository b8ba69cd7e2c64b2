"""The gate: what the evidence of a step says about the candidate. Pure.

Alpha is spent as follows. A rollback needs a lower bound above the margin: there may be one in every check of every step, so each
gets alpha / (checks x steps), and a wrong rollback has a chance of at most alpha over the whole rollout. A harmful candidate is
promoted only if the upper bound of the check that it fails is wrong in the last step too, so upper bounds take the whole alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.rollout.checks.check import Judged, Levels
from cluster.rollout.evidence import Counts, EvidenceKey
from cluster.rollout.labels import stage_of
from cluster.rollout.record import Rollout
from cluster.state import of_rollout


def judge(rollout: Rollout, evidence: Mapping[EvidenceKey, Counts]) -> tuple[Judged, ...]:
    """Every check of the plan, on the evidence of the step under way. Nothing before the first step."""
    step = rollout.current
    if step is None or rollout.stable is None:
        return ()
    checks, alpha = tuple(rollout.plan.checks.in_force().values()), rollout.plan.alpha
    levels = Levels(alpha / (max(len(checks), 1) * len(rollout.plan.steps)), alpha, step.alone)
    both = replace(levels, alone=False)
    return tuple(
        check.judged(*_of_all_steps(rollout, evidence), both)
        if check.whole_rollout
        else check.judged(*_of_step(rollout, evidence), levels)
        for check in checks
        if check.applies(step)
    )


def _of_step(rollout: Rollout, evidence: Mapping[EvidenceKey, Counts]) -> tuple[Counts, Counts]:
    """What the candidate and stable did in the step under way."""
    candidate, stable = of_stage(rollout, rollout.stage, evidence)
    alone = rollout.current is not None and rollout.current.alone
    return candidate, _earlier_stable(rollout, evidence) if alone else stable


def _of_all_steps(rollout: Rollout, evidence: Mapping[EvidenceKey, Counts]) -> tuple[Counts, Counts]:
    return of_stage(rollout, stage_of(rollout), evidence)


def of_stage(rollout: Rollout, stage: str, evidence: Mapping[EvidenceKey, Counts]) -> tuple[Counts, Counts]:
    """What was told of the candidate and of stable under this stage."""
    keys = (EvidenceKey(rollout.model, stage, version) for version in (rollout.candidate, rollout.stable or 0))
    candidate, stable = (evidence.get(key, Counts()) for key in keys)
    return candidate, stable


def _earlier_stable(rollout: Rollout, evidence: Mapping[EvidenceKey, Counts]) -> Counts:
    """What stable did in the steps before, warming included, for a step in which the candidate answers alone.

    What stable answers in such a step are the requests that the candidate failed: no fair sample.
    """
    earlier = Counts()
    for key, counts in evidence.items():
        if of_rollout(key, rollout) and key.version == rollout.stable and key.stage != rollout.stage:
            earlier += counts
    return earlier
