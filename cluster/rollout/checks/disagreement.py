"""Rows that the candidate answers otherwise than stable does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from cluster.rollout.checks.check import Check, Judged, Levels
from cluster.rollout.checks.outputs import no_output
from cluster.rollout.evidence import Counts
from cluster.rollout.sequential import mean
from cluster.rollout.steps import Step
from cluster.versions import Version

Tolerance = Annotated[float, Field(gt=0)]


class DisagreementCheck(Check):
    """Share of rows whose answer differs from stable's in shadow, in any output.

    By more than `tolerance`: a number for all outputs, or one by output. Outputs without one differ by their argmax.
    """

    name: ClassVar[str] = "disagreement"

    tolerance: Tolerance | dict[str, Tolerance] | None = None

    def applies(self, step: Step) -> bool:
        return step.shadow > 0

    def observed(self, counts: Counts) -> tuple[int, float]:
        return counts.compared, counts.disagreed

    def lacks(self, steps: Sequence[Step]) -> str:
        return "" if any(step.shadow > 0 for step in steps) else "a disagreement check needs a shadow step"

    def require(self, stable: Version) -> None:
        for output in self.tolerance if isinstance(self.tolerance, dict) else {}:
            if stable.signature.output(output) is None:
                raise no_output(stable, output, "rollout.checks.disagreement.tolerance")

    def judged(self, ours: Counts, base: Counts, levels: Levels) -> Judged:
        """Of the candidate alone: each of its rows was held against stable's already."""
        del base
        mine = self.observed(ours)
        interval = mean(*mine, levels.low, levels.high)
        return Judged(self.name, interval, self.margin, self.verdict(interval), mine, None, "unlike stable")
