"""The gate: what the evidence of a step says about the candidate. Pure.

Alpha is spent as follows. A rollback needs a lower bound above the margin: there may be one in every check of every step, so each
gets alpha / (checks x steps), and a wrong rollback has a chance of at most alpha over the whole rollout. A harmful candidate is
promoted only if the upper bound of the check that it fails is wrong in the last step too, so upper bounds take the whole alpha.
What one caller alone brings about is no proof (callers.py).
"""

from __future__ import annotations

import functools
from dataclasses import replace

from cluster.rollout.callers import NOTHING, Both, judged_by_several
from cluster.rollout.checks.check import Check, Judged, Levels
from cluster.rollout.evidence import Counts, Evidence, EvidenceKey
from cluster.rollout.labels import stage_of
from cluster.rollout.record import Rollout
from cluster.state import of_rollout


def judge(rollout: Rollout, evidence: Evidence) -> tuple[Judged, ...]:
    """Every check of the plan, on the evidence of the step under way. Nothing before the first step."""
    step = rollout.current
    if step is None or rollout.stable is None:
        return ()
    checks, alpha = tuple(rollout.plan.checks.in_force().values()), rollout.plan.alpha
    levels = Levels(alpha / (max(len(checks), 1) * len(rollout.plan.steps)), alpha, step.alone)
    return tuple(_judged(check, rollout, evidence, levels) for check in checks if check.applies(step))


def _judged(check: Check, rollout: Rollout, evidence: Evidence, levels: Levels) -> Judged:
    if check.whole_rollout:
        of, levels = functools.partial(parts_of_stage, rollout, stage_of(rollout), evidence), replace(levels, alone=False)
        return judged_by_several(check, levels, of_stage(rollout, stage_of(rollout), evidence), of)
    return judged_by_several(check, levels, _of_step(rollout, evidence), functools.partial(_parts_of_step, rollout, evidence))


def _of_step(rollout: Rollout, evidence: Evidence) -> Both:
    """What the candidate and stable did in the step under way."""
    both = of_stage(rollout, rollout.stage, evidence)
    return replace(both, base=_earlier_stable(rollout, evidence, parts=False).get("", Counts())) if _alone(rollout) else both


def _parts_of_step(rollout: Rollout, evidence: Evidence) -> dict[str, Both]:
    parts = parts_of_stage(rollout, rollout.stage, evidence)
    if not _alone(rollout):
        return parts
    earlier = _earlier_stable(rollout, evidence, parts=True)
    callers = parts.keys() | earlier.keys()
    return {caller: Both(parts.get(caller, NOTHING).ours, earlier.get(caller, Counts())) for caller in callers}


def of_stage(rollout: Rollout, stage: str, evidence: Evidence, caller: str = "") -> Both:
    """What was told of the candidate and of stable under this stage: all of it, or what the caller sent."""
    candidate = EvidenceKey(rollout.model, stage, rollout.candidate, caller)
    stable = EvidenceKey(rollout.model, stage, rollout.stable or 0, caller)
    return Both(evidence.get(candidate, Counts()), evidence.get(stable, Counts()))


def parts_of_stage(rollout: Rollout, stage: str, evidence: Evidence) -> dict[str, Both]:
    """What each caller sent of that."""
    callers = {key.caller for key in evidence.of(rollout.model, stage)} - {""}
    return {caller: of_stage(rollout, stage, evidence, caller) for caller in callers}


def _alone(rollout: Rollout) -> bool:
    return rollout.current is not None and rollout.current.alone


def _earlier_stable(rollout: Rollout, evidence: Evidence, *, parts: bool) -> dict[str, Counts]:
    """What stable did in the steps before, warming included, for a step in which the candidate answers alone: all of it, under
    "", or its parts by callers.

    What stable answers in such a step are the requests that the candidate failed: no fair sample.
    """
    earlier: dict[str, Counts] = {}
    for stage in evidence.stages(rollout.model):
        if stage == rollout.stage or not of_rollout(rollout.model, stage, rollout):
            continue
        for key, counts in evidence.of(rollout.model, stage).items():
            if (key.caller != "") is parts and key.version == rollout.stable:
                earlier[key.caller] = earlier.get(key.caller, Counts()) + counts
    return earlier
