"""Plans: what is refused with which words, and the plans that have a name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cluster.rollout.plan import NamedPlan, Plan, is_instant, named_plan

LAST = {"weight": 100}


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"steps": []}, "at least one step"),
        ({"steps": [{"weight": 50}, {"weight": 50}, LAST]}, "weights must rise"),
        ({"steps": [{"weight": 50}, {"weight": 10}, LAST]}, "weights must rise"),
        ({"steps": [{"weight": 10}]}, "last step must have weight 100"),
        ({"steps": [{"weight": 10}, {"shadow": 10}, LAST]}, "shadow steps come before"),
        ({"steps": [{"weight": 10, "shadow": 10}, LAST]}, "either a weight or a shadow"),
        ({"steps": [{"weight": 101}]}, "less than or equal to 100"),
        ({"steps": [{"weight": 100, "bake_s": -1}]}, "greater than or equal to 0"),
        ({"checks": {"vibes": {"margin": 0.1}}}, "vibes"),
        ({"checks": {"error_rate": {"margin": 0}}}, "greater than 0"),
        ({"checks": {"error_rate": {"margin": 1}}}, "less than 1"),
        ({"checks": {"slow": {"margin": 0.1}}}, "bound_ms"),
        ({"checks": {"slow": {"margin": 0.1, "bound_ms": 0}}}, "greater than 0"),
        ({"checks": {"disagreement": {"margin": 0.1}}}, "needs a shadow step"),
        ({"steps": [{"shadow": 5}, LAST], "checks": {"disagreement": {"margin": 0.1, "tolerance": {"y": 0}}}}, "greater than 0"),
        ({"alpha": 0}, "greater than 0"),
        ({"alpha": 0.5}, "less than 0.5"),
        ({"deadline_s": 0}, "greater than 0"),
        ({"on_deadline": "pray"}, "'hold' or 'rollback'"),
        ({"step": []}, "Extra inputs"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(plan: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Plan.model_validate(plan)


def test_a_tolerance_is_one_number_or_one_by_output() -> None:
    steps = [{"shadow": 5}, LAST]
    for tolerance in (0.5, {"score": 0.5, "width": 1.0}):
        plan = Plan.model_validate({"steps": steps, "checks": {"disagreement": {"margin": 0.1, "tolerance": tolerance}}})
        assert plan.checks.disagreement is not None
        assert plan.checks.disagreement.tolerance == tolerance
        assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_named_plan_takes_all_but_its_steps_from_the_models_own() -> None:
    checks = {"error_rate": {"margin": 0.03}, "disagreement": {"margin": 0.1}}
    own = Plan.model_validate({"steps": [{"shadow": 5}, LAST], "checks": checks, "keep_warm_s": 7, "fallback": False})
    instant, blue_green = (named_plan(name, own) for name in (NamedPlan.INSTANT, NamedPlan.BLUE_GREEN))
    for plan in (instant, blue_green):
        assert [step.weight for step in plan.steps] == [100]
        assert (plan.keep_warm_s, plan.fallback, plan.checks.error_rate) == (7, False, own.checks.error_rate)
        assert plan.checks.disagreement is None  # there is no shadow to compare in
    assert is_instant(instant)
    assert not is_instant(blue_green)
    assert not is_instant(own)
