"""The `labels` section of a Model document: labels are taken at all times, and say how right the model is."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cluster.rollout.checks.labels import LabelCheck, Loss, check_scale
from cluster.section import Section

DAY_S = 86_400.0


class LiveLabels(Section):
    """How right the versions are, by late labels (`headrace quality label`); outside rollouts too.

    `output`, `loss` and `scale` are as in `rollout.checks.labels`, and the same where both are there. An alarm says that answers
    are proven to lose more than at build, its sampling error included, by more than `tolerance`; it never rolls back.
    """

    output: str
    loss: Loss = Loss.WRONG
    scale: float | None = Field(default=None, gt=0)
    tolerance: float = Field(default=0.02, ge=0, lt=1, description="of the loss: 0.02 are two points of accuracy")
    false_alarms_a_year: float = Field(
        default=0.1, gt=0, le=100, description="at most so many, on average, of versions that are as good as at build"
    )
    alike: int = Field(
        default=1, ge=1, le=10_000, description="so many labels may be of the same thing, one caller's say: they count as one"
    )
    within_s: float = Field(default=90 * DAY_S, gt=0, description="labels that come later after their answer are not counted")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        check_scale(self.loss, self.scale)
        return self

    def same_losses(self, other: LiveLabels | None) -> bool:
        """Whether what was summed under the other can be added to what is summed under this."""
        mine = (self.output, self.loss, self.scale)
        return other is not None and mine == (other.output, other.loss, other.scale)


def check_alike(live: LiveLabels | None, check: LabelCheck | None) -> None:
    """Raises ValueError where a rollout would judge other losses than are summed at all times: an answer has one label key."""
    if live is None or check is None:
        return
    for name in ("output", "loss", "scale"):
        if getattr(live, name) != getattr(check, name):
            raise ValueError(
                f"labels.{name} and rollout.checks.labels.{name} differ: an answer has one label key; make them alike"
            )
