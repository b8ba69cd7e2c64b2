"""What happened and why, as `headrace rollout history` and `status` say it."""

from __future__ import annotations

import time

import pytest
from rich.console import Console

from cluster.commands.audit import AuditView, RolloutHistory
from cluster.commands.rollouts import CheckView, RolloutView
from headrace.cli.rollout import history_told, why
from headrace.cli.screens.rollout import shown


def test_each_check_has_a_line_and_a_reason_that_is_one_of_them_is_not_said_twice() -> None:
    failed = "error rate: candidate 8.64 % to 68.26 % worse than stable, limit 2 %: failed"
    counted = f"{failed} (candidate 5 of 20, stable 0 of 90)"
    detail = {"from": "canary", "candidate": 3, "stable": None, "reason": failed, "checks": [counted, "slow: waiting"]}
    assert why(detail) == f"from canary, candidate 3\n{counted}\nslow: waiting"


def test_a_reason_of_its_own_comes_before_the_checks() -> None:
    assert why({"reason": "every step passed", "checks": ["error rate: passed"]}) == "every step passed\nerror rate: passed"
    assert why({}) == ""


def test_each_check_is_said_once_in_plain_words_with_its_numbers() -> None:
    words = "error rate: candidate 0.4 % to 1.9 % worse than stable, limit 1 %: waiting"
    check = CheckView(name="error_rate", low=0.004, high=0.019, margin=0.01, verdict="waiting", words=words, observed=5000)
    rollout = RolloutView(
        id=2,
        model="digits",
        candidate=3,
        stable=1,
        state="canary",
        step=1,
        steps=2,
        weight=10,
        shadow=0,
        paused=False,
        reason="",
        started_s=100,
        ended_s=160,
        checks=(check,),
    )
    console = Console(width=200)
    with console.capture() as capture:
        console.print(shown(rollout))
    head, said = (line.strip() for line in capture.get().splitlines())
    assert head.startswith("digits: version 1 -> 3  canary  step 1 of 2, 10 % of traffic")
    assert said == f"{words}  [+0.0040, +0.0190] against 0.01, of 5000"


def test_the_hour_is_the_same_wherever_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    event = AuditView(at_s=1_800_000_000.0, model="digits", rollout=2, event="promoted", actor="", detail={})
    try:
        for zone in ("UTC", "Asia/Tokyo"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            console = Console(width=200)
            with console.capture() as capture:
                console.print(history_told(RolloutHistory(rollouts=(), audit=(event,))))
            assert "when (UTC)" in capture.get()
            assert "2027-01-15 08:00:00" in capture.get()
    finally:
        monkeypatch.undo()
        time.tzset()
