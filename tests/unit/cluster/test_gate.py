"""Alpha holds for a whole rollout: several checks in several steps, judged after every request. Simulated, with fixed seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cluster.rollout.checks.check import Verdict
from cluster.rollout.evidence import Counts, Evidence, EvidenceKey
from cluster.rollout.gate import judge
from cluster.rollout.plan import Plan
from cluster.rollout.record import Rollout, RolloutState

ALPHA = 0.2
ROLLOUTS = 80
REQUESTS = 100  # to either version in every step; in the last one to the candidate alone


@pytest.mark.proof
@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_equal_versions_are_told_apart_in_at_most_alpha_of_all_rollouts(rate: float) -> None:
    """Next to no margin: what is rolled back anywhere in a rollout is rolled back wrongly."""
    plan = Plan.model_validate(
        {
            "steps": [{"weight": 10}, {"weight": 50}, {"weight": 100}],
            "checks": {"error_rate": {"margin": 1e-9}, "slow": {"margin": 1e-9, "bound_ms": 100}},
            "alpha": ALPHA,
        }
    )
    random = np.random.default_rng(20261127)
    wrong = sum(_rolled_back(plan, random.random((3, REQUESTS, 4)) < rate) for _ in range(ROLLOUTS))
    assert wrong / ROLLOUTS <= ALPHA


def test_a_worse_version_is_found_by_the_same_simulation() -> None:
    """So that the test above can fail: it looks at what a rollback would come from."""
    bad = np.zeros((3, REQUESTS, 4), dtype=bool)
    bad[:, :, 0] = np.random.default_rng(1).random((3, REQUESTS)) < 0.5
    assert _rolled_back(Plan.model_validate({"checks": {"error_rate": {"margin": 0.01}}}), bad)


def _rolled_back(plan: Plan, bad: np.ndarray) -> bool:
    """Whether any check failed at any look. `bad` [steps, requests, 4]: candidate fails, is slow; stable fails, is slow."""
    rollout = replace(Rollout(1, "digits", 1, 2, plan, 0.0, 0.0), state=RolloutState.CANARY)
    evidence: dict[EvidenceKey, Counts] = {}
    for step in range(len(plan.steps)):
        rollout = replace(rollout, step=step, reached=step + 1)
        arms = [2] if plan.steps[step].weight == 100 else [1, 2]
        for row in bad[step].tolist():
            for version in arms:
                failed, slow = row[:2] if version == 2 else row[2:]
                key = EvidenceKey("digits", rollout.stage, version)
                evidence[key] = evidence.get(key, Counts()) + Counts(rows=1, errors=failed, calls=1, slow=slow)
            if any(check.verdict is Verdict.FAILED for check in judge(rollout, Evidence(evidence))):
                return True
    return False
