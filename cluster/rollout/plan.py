"""How a model moves from stable to candidate: the `rollout` section of a Model document."""

from __future__ import annotations

import itertools
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from cluster.section import Section


class OnDeadline(StrEnum):
    """What to do with a step whose checks are neither passed nor failed in time."""

    HOLD = "hold"
    ROLLBACK = "rollback"


class Start(StrEnum):
    """Whether a new version starts its own rollout."""

    AUTO = "auto"
    MANUAL = "manual"


class Step(Section):
    """One step. `weight` and `shadow` are percent of traffic, to 0.01; a shadow step has weight 0.

    It lasts `bake_s` at least, and until its checks have passed; one of 0 s asks for no proof, and is over at once.
    """

    weight: float = Field(default=0.0, ge=0, le=100)
    shadow: float = Field(default=0.0, ge=0, le=100)
    bake_s: float = Field(default=30.0, ge=0)

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.weight > 0) == (self.shadow > 0):
            raise ValueError("a step has either a weight or a shadow share above 0")
        return self


class Check(Section):
    """The candidate may be worse than stable by `margin` at most (a difference of shares, 0.01 is one point)."""

    margin: float = Field(gt=0, lt=1)


class SlowCheck(Check):
    """Share of users' calls slower than `bound_ms`: judged on the steps with a weight."""

    bound_ms: float = Field(gt=0)


Tolerance = Annotated[float, Field(gt=0)]


class DisagreementCheck(Check):
    """Share of rows whose answer differs from stable's in shadow, in any output.

    By more than `tolerance`: a number for all outputs, or one by output. Outputs without one differ by their argmax.
    """

    tolerance: Tolerance | dict[str, Tolerance] | None = None


class Loss(StrEnum):
    """How far an answer is from its label, between 0 and 1."""

    WRONG = "wrong"
    """1 where the class (the argmax) is not the label; so the margin is in points of accuracy."""
    ABSOLUTE = "absolute"
    """The difference as a share of `scale`, 1 at most."""
    SQUARED = "squared"
    """The square of that share."""


class LabelCheck(Check):
    """Mean loss of `output` on late labels (`headrace rollout label`), judged on all weighted steps at once.

    `wrong` counts answers of another class than the label, so the margin is in points of accuracy; `absolute` and `squared` judge
    numbers, as a share of `scale`, the error that counts as 1.
    """

    output: str
    loss: Loss = Loss.WRONG
    scale: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if (self.loss is Loss.WRONG) != (self.scale is None):
            raise ValueError("loss absolute and loss squared need a scale (the error that counts as 1), loss wrong has none")
        return self


class Checks(Section):
    """What is judged. Leave one out and it is not judged."""

    error_rate: Check | None = Check(margin=0.01)
    slow: SlowCheck | None = None
    disagreement: DisagreementCheck | None = None
    labels: LabelCheck | None = None


class Plan(Section):
    """The `rollout` section of a Model document. `alpha` bounds the chance of a wrong rollback over the whole rollout."""

    steps: tuple[Step, ...] = (Step(weight=10), Step(weight=50), Step(weight=100))
    checks: Checks = Checks()
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    deadline_s: float = Field(default=3600.0, gt=0, description="for each step, warming included")
    on_deadline: OnDeadline = OnDeadline.HOLD
    fallback: bool = True
    start: Start = Start.AUTO
    keep_warm_s: float = Field(default=600.0, ge=0, description="how long the former stable version stays deployed")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if not self.steps:
            raise ValueError("a plan has at least one step")
        weights = [step.weight for step in self.steps if step.weight > 0]
        if any(after <= before for before, after in itertools.pairwise(weights)):
            raise ValueError(f"weights must rise from step to step; got {weights}")
        if not weights or weights[-1] != 100:
            raise ValueError("the last step must have weight 100")
        first_weight = next(i for i, step in enumerate(self.steps) if step.weight > 0)
        if any(step.shadow > 0 for step in self.steps[first_weight:]):
            raise ValueError("shadow steps come before the first weight")
        if self.checks.disagreement is not None and all(step.shadow == 0 for step in self.steps):
            raise ValueError("a disagreement check needs a shadow step")
        if self.checks.labels is not None and all(weight == 100 for weight in weights):
            raise ValueError("a labels check needs a step with a weight below 100: only then do both versions answer")
        return self


class NamedPlan(StrEnum):
    """Plans that need no document. All else (fallback, deadline, how long the former stays warm) is as in the model's own."""

    INSTANT = "instant"
    """All traffic as soon as the candidate is ready, nothing judged: the way back to a version that is still warm."""
    BLUE_GREEN = "blue_green"
    """All traffic as soon as the candidate is ready, and back at once if it proves worse while it bakes."""


NAMED_STEPS: dict[NamedPlan, tuple[Step, ...]] = {
    NamedPlan.INSTANT: (Step(weight=100, bake_s=0),),
    NamedPlan.BLUE_GREEN: (Step(weight=100),),
}


def named_plan(name: NamedPlan, own: Plan) -> Plan:
    """The named plan for a model whose own plan is `own`. Only checks that need a step which it lacks are left out."""
    data = {field: getattr(own, field) for field in Plan.model_fields}
    return Plan(
        **{**data, "steps": NAMED_STEPS[name], "checks": own.checks.model_copy(update={"disagreement": None, "labels": None})}
    )


def is_instant(plan: Plan) -> bool:
    """Whether traffic moves in one table change: never are there two versions under one split."""
    return len(plan.steps) == 1 and plan.steps[0].bake_s == 0
