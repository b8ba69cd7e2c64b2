"""How a model moves from stable to candidate: the `rollout` section of a Model document."""

from __future__ import annotations

import itertools
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from cluster.rollout.checks import Checks
from cluster.rollout.preflight import Preflight
from cluster.rollout.steps import Step
from cluster.section import Section


class OnDeadline(StrEnum):
    """What to do with a step whose checks are neither passed nor failed in time."""

    HOLD = "hold"
    ROLLBACK = "rollback"


class Start(StrEnum):
    """Whether a new version starts its own rollout."""

    AUTO = "auto"
    MANUAL = "manual"


class Plan(Section):
    """The `rollout` section of a Model document. `alpha` bounds the chance of a wrong rollback over the whole rollout."""

    steps: tuple[Step, ...] = (Step(weight=10), Step(weight=50), Step(weight=100))
    checks: Checks = Checks()
    preflight: Preflight | None = None
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    deadline_s: float = Field(default=3600.0, gt=0, description="for each step, warming included")
    on_deadline: OnDeadline = Field(
        default=OnDeadline.HOLD, description="wait for a person, or go back; also where the candidate's files are away so long"
    )
    fallback: bool = True
    start: Start = Start.AUTO
    keep_warm_s: float = Field(default=600.0, ge=0, description="how long the former stable version stays deployed")
    keep_ended: int = Field(default=50, ge=1, description="how many ended rollouts `rollout history` lists; the audit has all")

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
        for check in self.checks.in_force().values():
            if lacks := check.lacks(self.steps):
                raise ValueError(lacks)
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
    steps = NAMED_STEPS[name]
    # The way back to a version that is still warm must not wait for anything.
    preflight = own.preflight if name is not NamedPlan.INSTANT else None
    unfit = {field: None for field, check in own.checks.in_force().items() if check.lacks(steps)}
    return Plan(**{**data, "steps": steps, "checks": own.checks.model_copy(update=unfit), "preflight": preflight})


def is_instant(plan: Plan) -> bool:
    """Whether traffic moves in one table change: never are there two versions under one split."""
    return len(plan.steps) == 1 and plan.steps[0].bake_s == 0
