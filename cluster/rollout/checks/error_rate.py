"""Rows that the candidate failed."""

from __future__ import annotations

from typing import ClassVar

from cluster.rollout.checks.check import Check
from cluster.rollout.evidence import Counts
from cluster.rollout.steps import Step


class ErrorRateCheck(Check):
    """Share of rows that a version failed: judged on every step.

    `margin` is how much worse than stable the candidate may be (a difference of shares, 0.01 is one point), in every check alike.
    """

    name: ClassVar[str] = "error_rate"

    def applies(self, step: Step) -> bool:  # noqa: ARG002
        return True

    def observed(self, counts: Counts) -> tuple[int, float]:
        return counts.rows, counts.errors
