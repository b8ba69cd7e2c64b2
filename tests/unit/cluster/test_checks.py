"""The checks of a rollout, each by itself: when it applies, what it judges, what it asks of a plan and of stable."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from pydantic import ValidationError

from cluster.errors import Conflict
from cluster.rollout import checks
from cluster.rollout.checks import Checks
from cluster.rollout.checks.check import Check, Levels, Verdict
from cluster.rollout.checks.disagreement import DisagreementCheck
from cluster.rollout.checks.error_rate import ErrorRateCheck
from cluster.rollout.checks.labels import LabelCheck
from cluster.rollout.checks.slow import SlowCheck
from cluster.rollout.evidence import Counts
from cluster.rollout.plan import Plan
from cluster.rollout.steps import Step
from cluster.signature import Signature
from cluster.versions import Version, VersionId
from tests.support.brain import SIGNATURE

SHADOW, CANARY, ALONE = Step(shadow=10), Step(weight=10), Step(weight=100)
COUNTS = Counts(rows=100, errors=1, calls=50, slow=2, compared=40, disagreed=3, labelled=30, loss=4.5)
LEVELS = Levels(0.01, 0.05, alone=False)
STABLE = Version(VersionId("digits", 1), "file:///a", "d", "onnx", Signature.model_validate(SIGNATURE), 0.0)
EACH: list[Check] = [
    ErrorRateCheck(margin=0.1),
    SlowCheck(margin=0.1, bound_ms=50),
    DisagreementCheck(margin=0.1),
    LabelCheck(margin=0.1, output="output"),
]


def test_every_check_has_a_file_of_its_own_and_is_listed() -> None:
    modules = [importlib.import_module(f"{checks.__name__}.{found.name}") for found in pkgutil.iter_modules(checks.__path__)]
    made = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Check)}
    assert {type(check) for check in EACH} == made - {Check}
    data = {"error_rate": EACH[0], "slow": EACH[1], "disagreement": EACH[2], "labels": EACH[3]}
    assert list(Checks(**data).in_force().values()) == EACH  # type: ignore[arg-type]
    assert len({type(check).__module__ for check in EACH}) == len({check.name for check in EACH}) == len(EACH)
    assert Checks(error_rate=None).in_force() == {}


@pytest.mark.parametrize(
    ("check", "applies", "observed"),
    [
        (EACH[0], [True, True, True], (100, 1)),
        (EACH[1], [False, True, True], (50, 2)),
        (EACH[2], [True, False, False], (40, 3)),
        (EACH[3], [False, True, True], (30, 4.5)),
    ],
)
def test_when_each_applies_and_what_it_looks_at(check: Check, applies: list[bool], observed: tuple[int, float]) -> None:
    assert [check.applies(step) for step in (SHADOW, CANARY, ALONE)] == applies
    assert check.observed(COUNTS) == observed


@pytest.mark.parametrize("check", EACH)
def test_what_each_says(check: Check) -> None:
    nothing = check.judged(Counts(), Counts(), LEVELS)
    title = check.name.replace("_", " ")
    assert nothing.words == f"{title}: nothing observed of the candidate yet, limit 10 %: waiting"
    much = 100_000
    good = Counts(rows=much, calls=much, compared=much, labelled=much)
    bad = Counts(much, much // 2, much, much // 2, much, much // 2, much, much / 2)
    assert check.judged(good, good, LEVELS).verdict is Verdict.PASSED
    told = check.judged(bad, good, LEVELS)
    assert told.verdict is Verdict.FAILED
    assert told.words.startswith(f"{title}: candidate 4")
    against = "unlike stable" if type(check) is DisagreementCheck else "worse than stable"
    assert f"% {against}, limit 10 %: failed" in told.words
    alone = check.judged(bad, Counts(), Levels(0.01, 0.05, alone=True))
    assert alone.verdict is Verdict.FAILED
    assert ("stable was not observed" in alone.words) is (type(check) is not DisagreementCheck)


@pytest.mark.parametrize(
    ("steps", "lacking"),
    [
        ((SHADOW, CANARY, ALONE), [False, False, False, False]),
        ((CANARY, ALONE), [False, False, True, False]),
        ((SHADOW, ALONE), [False, False, False, True]),
        ((ALONE,), [False, False, True, True]),
    ],
)
def test_what_each_asks_of_a_plan(steps: tuple[Step, ...], lacking: list[bool]) -> None:
    assert [bool(check.lacks(steps)) for check in EACH] == lacking
    for field, check in zip(("error_rate", "slow", "disagreement", "labels"), EACH, strict=True):
        plan = {"steps": steps, "checks": {field: check}}
        if check.lacks(steps):
            with pytest.raises(ValidationError, match=check.lacks(steps)):
                Plan.model_validate(plan)
        else:
            assert Plan.model_validate(plan).checks.in_force()[field] == check


def test_what_each_asks_of_stable() -> None:
    for check in EACH:
        check.require(STABLE)
    for check in (DisagreementCheck(margin=0.1, tolerance={"none": 0.5}), LabelCheck(margin=0.1, output="none")):
        with pytest.raises(Conflict, match="no output 'none'"):
            check.require(STABLE)
    with pytest.raises(Conflict, match="no label can be held against that"):
        LabelCheck(margin=0.1, output="output", loss="absolute", scale=1).require(STABLE)  # type: ignore[arg-type]
