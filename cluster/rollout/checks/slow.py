"""Calls that took the candidate too long."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from cluster.rollout.checks.check import Check
from cluster.rollout.evidence import Counts
from cluster.rollout.steps import Step


class SlowCheck(Check):
    """Share of users' calls slower than `bound_ms`: judged on the steps with a weight."""

    name: ClassVar[str] = "slow"

    bound_ms: float = Field(gt=0)

    def applies(self, step: Step) -> bool:
        return step.weight > 0

    def observed(self, counts: Counts) -> tuple[int, float]:
        return counts.calls, counts.slow
