"""What the candidate's answers lost, as late labels tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Self

from pydantic import Field, model_validator

from cluster.errors import Conflict
from cluster.rollout.checks.check import Check
from cluster.rollout.checks.outputs import no_output
from cluster.rollout.evidence import Counts
from cluster.rollout.steps import Step
from cluster.signature import Datatype
from cluster.versions import Version

_FLOATS = frozenset({Datatype.FP16, Datatype.FP32, Datatype.FP64, Datatype.BF16})


class Loss(StrEnum):
    """How far an answer is from its label, between 0 and 1."""

    WRONG = "wrong"
    """1 where the class (the argmax) is not the label; so the margin is in points of accuracy."""
    ABSOLUTE = "absolute"
    """The difference as a share of `scale`, 1 at most."""
    SQUARED = "squared"
    """The square of that share."""

    def told(self, mean: float) -> str:
        """A mean loss in the words that people use of it."""
        return f"accuracy {1 - mean:.1%}" if self is Loss.WRONG else f"loss {mean:.4f}"


def check_scale(loss: Loss, scale: float | None) -> None:
    """Raises ValueError where that loss of numbers would have no bound, or that of classes one too many."""
    if (loss is Loss.WRONG) != (scale is None):
        raise ValueError("loss absolute and loss squared need a scale (the error that counts as 1), loss wrong has none")


def require_output(version: Version, output: str, loss: Loss, where: str) -> None:
    """Raises Conflict where no label can be held against that output of the version."""
    spec = version.signature.output(output)
    if spec is None:
        raise no_output(version, output, f"{where}.output")
    one_number = math.prod(spec.shape[1:]) == 1 and spec.datatype is not Datatype.BYTES
    classes = len(spec.shape) == 2 and spec.datatype in _FLOATS
    if not (one_number or (loss is Loss.WRONG and classes)):
        raise Conflict(
            f"output {spec.name!r} is {spec.datatype} {list(spec.shape)}: no label can be held against that",
            where=where,
            remedy="name an output of one number a row; for loss wrong, one of a score for each class will do too",
        )


class LabelCheck(Check):
    """Mean loss of `output` on late labels (`headrace rollout label`), judged on all weighted steps at once.

    `wrong` counts answers of another class than the label, so the margin is in points of accuracy; `absolute` and `squared` judge
    numbers, as a share of `scale`, the error that counts as 1.
    """

    name: ClassVar[str] = "label_loss"
    # So that stable has its own even where the candidate answers alone.
    whole_rollout: ClassVar[bool] = True

    output: str
    loss: Loss = Loss.WRONG
    scale: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        check_scale(self.loss, self.scale)
        return self

    def applies(self, step: Step) -> bool:
        return step.weight > 0

    def observed(self, counts: Counts) -> tuple[int, float]:
        return counts.labelled, counts.loss

    def lacks(self, steps: Sequence[Step]) -> str:
        if any(0 < step.weight < 100 for step in steps):
            return ""
        return "a labels check needs a step with a weight below 100: only then do both versions answer"

    def require(self, stable: Version) -> None:
        require_output(stable, self.output, self.loss, "rollout.checks.labels")
