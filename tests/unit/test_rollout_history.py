"""Why something happened, as `headrace rollout history` says it."""

from __future__ import annotations

from headrace.cli.rollout import why


def test_each_check_has_a_line_and_a_reason_that_is_one_of_them_is_not_said_twice() -> None:
    failed = "error rate: candidate 8.64 % to 68.26 % worse than stable, limit 2 %: failed"
    detail = {"from": "canary", "candidate": 3, "stable": None, "reason": failed, "checks": [failed, "slow: waiting"]}
    assert why(detail) == f"from canary, candidate 3\n{failed}\nslow: waiting"


def test_a_reason_of_its_own_comes_before_the_checks() -> None:
    assert why({"reason": "every step passed", "checks": ["error rate: passed"]}) == "every step passed\nerror rate: passed"
    assert why({}) == ""
