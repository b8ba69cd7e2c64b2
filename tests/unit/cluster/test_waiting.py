"""A candidate that lacks what is not its own, such as its files: its rollout waits, says what for, and goes on by itself."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from cluster.fleet.retry import Retry
from cluster.fleet.waiting import Wait, after_job, after_look, lacking
from cluster.ports import AppState, AppStatus
from cluster.rollout.misses import Misses, missing
from cluster.schedule.fires import JobSeen, JobState
from tests.support.brain import SIGNATURE, SURE, Brain

AWAY = "s3://versions/digits/2: the artifact can't be read: connection refused (see that its place is there)"
DAMAGED = "s3://versions/digits/2/model.onnx: model.onnx is damaged: its digest differs (build the version again)"
CANDIDATE = "digits--v2"
LONG = {**SURE, "steps": [{"weight": 10, "bake_s": 3600}, {"weight": 100, "bake_s": 5}], "deadline_s": 7200}
FAILED = AppState(CANDIDATE, AppStatus.FAILED, 0, 1, AWAY, transient=True)
RETRY = Retry(1, "no log", 10.0)
OTHER_SIGNATURE = {**SIGNATURE, "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 5]}]}


@pytest.mark.parametrize(
    ("app", "preflight", "lacks"),
    [
        (FAILED, None, AWAY),
        (replace(FAILED, status=AppStatus.STARTING), None, AWAY),
        (replace(FAILED, status=AppStatus.UNHEALTHY), None, AWAY),
        (replace(FAILED, message=""), None, "no reason given"),
        (replace(FAILED, transient=False), None, None),
        (replace(FAILED, status=AppStatus.UNHEALTHY, transient=False), None, None),
        (AppState(CANDIDATE, AppStatus.STARTING, 0, 1), None, ""),
        (None, None, ""),
        (AppState(CANDIDATE, AppStatus.READY, 1, 1), None, None),
        (AppState(CANDIDATE, AppStatus.READY, 1, 2, AWAY, transient=True), None, None),
        (AppState(CANDIDATE, AppStatus.READY, 1, 1), RETRY, "no log"),
        (AppState(CANDIDATE, AppStatus.READY, 1, 1), replace(RETRY, next_s=None), ""),
    ],
)
def test_what_is_lacking(app: AppState | None, preflight: Retry | None, lacks: str | None) -> None:
    assert lacking(app, preflight) == lacks


def test_a_wait_begins_with_the_first_word_of_it_and_outlasts_the_tries() -> None:
    def look(wait: Wait | None, lacks: str | None, now_s: float) -> Wait | None:
        return after_look(wait, lacks, now_s, patience_s=60)

    assert look(None, "", 1.0) is None
    assert look(None, None, 1.0) is None
    begun = look(None, AWAY, 10.0)
    assert begun == Wait(10.0, AWAY)
    trying = look(begun, "", 20.0)
    assert trying == Wait(10.0, AWAY, 20.0)
    assert look(trying, "", 79.0) is trying
    assert look(trying, "", 80.0) is None  # whatever it is in want of now, it is not that
    assert look(trying, "refused", 30.0) == Wait(10.0, "refused")
    assert look(trying, None, 30.0) is None


def test_it_is_told_with_its_time_and_what_to_do() -> None:
    words = Wait(1_796_000_000.0, AWAY).words
    assert words.startswith("since 2026-11-30 00:53:20 UTC it waits for what its candidate takes to start, and goes on by itself")
    assert words.endswith(AWAY)


def test_a_preflight_that_lacked_something_is_tried_again_later_and_later() -> None:
    failed = JobSeen(JobState.FAILED, AWAY, transient=True)
    first = after_job(None, failed, 100.0)
    assert first == Retry(1, f"its preflight could not be made: {AWAY}", 105.0)
    assert after_job(first, failed, 104.0) is first
    trying = after_job(first, None, 105.0)
    assert trying == replace(first, next_s=None)
    assert after_job(trying, JobSeen(JobState.RUNNING), 106.0) is trying
    again = after_job(trying, failed, 110.0)
    assert again is not None
    assert (again.failures, again.next_s) == (2, 120.0)
    assert after_job(None, JobSeen(JobState.FAILED, "no Parquet file is there"), 1.0) is None
    assert after_job(None, JobSeen(JobState.SUCCEEDED), 1.0) is None


def test_what_is_missed_for_want_of_others_ends_no_rollout_and_passes_no_step() -> None:
    long = Misses(since_s=100.0, until_s=200.0, words="8 of 10 rows")
    assert missing(long, 0)
    assert missing(long.excused, 0) == ""
    assert not long.excused.takes_its_share
    assert Misses().excused == Misses()


def brain_with(plan: dict[str, Any] = SURE) -> Brain:
    """Version 1 is stable."""
    brain = Brain()
    brain.serve_first(plan)
    return brain


@pytest.fixture
def warming() -> Brain:
    """Version 2 is built as the store of its files is away."""
    brain = brain_with()
    brain.fleet.doom(CANDIDATE, AWAY, transient=True)
    brain.build(2)
    brain.tick(20)
    return brain


@pytest.fixture
def canary() -> Brain:
    brain = brain_with(LONG)
    brain.build(2)
    brain.tick(4)
    assert brain.rollout()["state"] == "canary"
    return brain


def events_of(brain: Brain) -> list[tuple[str, str]]:
    audit = brain.call("rollout.history", model="digits")["audit"]
    return [(one["event"], one["detail"].get("reason", "")) for one in audit if one["rollout"] == brain.rollout()["id"]]


def test_a_candidate_whose_files_are_away_is_waited_for_and_stable_serves(warming: Brain) -> None:
    told = warming.rollout()
    assert (told["state"], told["weight"]) == ("warming", 0)
    assert AWAY in told["reason"]
    assert "goes on by itself" in told["reason"]
    assert told["waits_since_s"] == pytest.approx(1_003.0, abs=2)
    route = warming.controller.table.routes["digits"]
    assert (route.stable, route.candidate) == (1, None)
    glance = warming.call("glance.show")["models"][0]
    assert AWAY in glance["rollout"]["waits_for"]
    (waits,) = [one for one in glance["wrong"] if "waits for" in one["words"]]
    assert waits["since_s"] == told["waits_since_s"]
    assert "goes on by itself" in waits["remedy"]


def test_it_goes_on_once_they_are_there(warming: Brain) -> None:
    warming.revive()
    warming.tick(20)
    warming.fleet.mend(CANDIDATE)
    warming.tick(60)
    assert (warming.rollout()["state"], warming.rollout()["reason"], warming.rollout()["waits_since_s"]) == ("canary", "", None)
    assert warming.controller.table.routes["digits"].candidate == 2
    events = events_of(warming)
    assert [event for event, _ in events] == ["started", "warming", "waits", "goes on", "canary"]
    assert AWAY in events[2][1]
    audit = warming.call("rollout.history", model="digits")["audit"]
    assert not [one for one in audit if one["event"] in ("failed", "started again")]  # it was told once


def test_tries_are_further_and_further_apart(warming: Brain) -> None:
    warming.tick(200)  # of 110 s in all
    assert 4 <= warming.fleet.deployed.count(CANDIDATE) <= 7


def test_files_that_are_there_and_damaged_roll_it_back(warming: Brain) -> None:
    warming.fleet.mend(CANDIDATE)
    warming.fleet.doom(CANDIDATE, DAMAGED)
    warming.tick(60)
    assert warming.rollout()["state"] == "rolled_back"
    assert warming.rollout()["reason"] == f"the candidate is failed: {DAMAGED}"
    assert warming.store.load().models["digits"].retries == {}


def test_the_time_it_waited_counts_towards_no_deadline(warming: Brain) -> None:
    warming.tick(int(2 * 60 / 0.5))  # SURE's deadline is 100 s, and then a person is asked
    assert warming.call("glance.show")["models"][0]["rollout"]["held"]
    warming.fleet.mend(CANDIDATE)
    warming.fleet.hold_back(CANDIDATE)
    warming.tick(int(99 / 0.5))
    assert warming.rollout()["state"] == "warming"
    warming.fleet.make_ready(CANDIDATE)
    warming.tick(2)
    assert (warming.rollout()["state"], warming.rollout()["reason"]) == ("canary", "")
    assert not warming.call("glance.show")["models"][0]["rollout"]["held"]


@pytest.mark.parametrize(("on_deadline", "state"), [("hold", "warming"), ("rollback", "rolled_back")])
def test_its_deadline_bounds_it_as_any_other_wait(on_deadline: str, state: str) -> None:
    brain = brain_with({**SURE, "on_deadline": on_deadline})
    brain.fleet.doom(CANDIDATE, AWAY, transient=True)
    brain.build(2)
    brain.tick(int(SURE["deadline_s"] / 0.5))
    assert brain.rollout()["state"] == "warming"
    brain.tick(20)
    assert brain.rollout()["state"] == state
    event, reason = events_of(brain)[-1]
    assert event == {"hold": "held", "rollback": "rolled_back"}[on_deadline]
    assert reason == f"what its candidate takes to start was away for 100 s: {AWAY}"


def test_a_try_that_never_ends_is_in_want_of_something_else(warming: Brain) -> None:
    warming.fleet.mend(CANDIDATE)
    warming.fleet.hold_back(CANDIDATE)
    warming.tick(int(130 / 0.5))
    assert warming.rollout()["state"] == "rolled_back"
    assert "not ready within 100 s" in warming.rollout()["reason"]


@pytest.mark.parametrize("fails", [True, False], ids=["no replica starts", "its app is ill"])
def test_a_canary_whose_replicas_can_not_come_back_keeps_its_step(canary: Brain, *, fails: bool) -> None:
    lose = canary.fleet.fail if fails else canary.fleet.sicken
    if fails:
        canary.fleet.doom(CANDIDATE, AWAY, transient=True)
    lose(CANDIDATE, AWAY, transient=True)
    for _ in range(200):  # of what is asked of it until its callers know, some is missed
        canary.score(1, rows=900, calls=90)
        canary.score(2, missed=100)
        canary.tick(2)
    told = canary.rollout()
    assert (told["state"], told["step"], told["weight"]) == ("canary", 1, 10)
    assert AWAY in told["reason"]
    assert canary.controller.table.routes["digits"].candidate is None  # stable answers
    if fails:
        canary.fleet.mend(CANDIDATE)
        canary.tick(700)
    else:
        canary.fleet.make_ready(CANDIDATE)
        canary.tick(4)
    assert (canary.rollout()["state"], canary.rollout()["reason"]) == ("canary", "")
    assert canary.controller.table.routes["digits"].candidate == 2


def test_one_that_is_ill_by_itself_afterwards_is_judged(canary: Brain) -> None:
    canary.fleet.sicken(CANDIDATE, AWAY, transient=True)
    canary.tick(100)
    canary.fleet.sicken(CANDIDATE, "its health check failed")
    canary.tick(100)
    assert canary.rollout()["state"] == "rolled_back"
    assert "unhealthy for 30 s: its health check failed" in canary.rollout()["reason"]


def test_a_replica_that_can_not_be_replaced_costs_calls_and_no_rollout(canary: Brain) -> None:
    short = AppState(CANDIDATE, AppStatus.READY, 1, 2, AWAY, transient=True)
    seen = canary.fleet.state

    def with_one_short() -> dict[str, AppState]:
        return {**seen(), CANDIDATE: short}

    canary.fleet.state = with_one_short  # type: ignore[method-assign]
    for _ in range(100):
        canary.score(1, rows=900, calls=90)
        canary.score(2, rows=60, missed=40)
        canary.tick(2)
    assert canary.rollout()["state"] == "canary"
    assert canary.rollout()["step"] == 1


def test_a_person_may_pause_and_abort_it(warming: Brain) -> None:
    warming.call("rollout.pause", model="digits")
    warming.tick(40)
    told = warming.rollout()
    assert told["state"] == "paused"
    assert told["reason"].startswith("paused by ")
    assert AWAY in told["reason"]
    warming.fleet.mend(CANDIDATE)
    warming.tick(100)
    assert warming.rollout()["reason"].startswith("paused by ")
    assert AWAY not in warming.rollout()["reason"]
    warming.call("rollout.resume", model="digits")
    warming.tick(4)
    assert warming.rollout()["state"] == "canary"
    again = brain_with()
    again.fleet.doom(CANDIDATE, AWAY, transient=True)
    again.build(2)
    again.tick(20)
    again.call("rollout.abort", model="digits")
    again.tick(60)
    assert (again.rollout()["state"], again.rollout()["waits_since_s"]) == ("rolled_back", None)
    assert set(again.fleet.state()) == {"digits--v1"}


def test_a_first_version_is_waited_for_too() -> None:
    brain = Brain()
    brain.fleet.doom("digits--v1", AWAY, transient=True)
    brain.build(1)
    brain.apply()
    brain.tick(60)
    assert (brain.rollout()["state"], AWAY in brain.rollout()["reason"]) == ("warming", True)
    brain.fleet.mend("digits--v1")
    brain.tick(100)
    assert brain.rollout()["state"] == "promoted"
    assert brain.controller.table.routes["digits"].stable == 1


def test_a_newer_version_takes_the_place_of_a_first_one_whose_files_are_away_for_good() -> None:
    brain = Brain()
    brain.fleet.doom("digits--v1", AWAY, transient=True)
    brain.build(1)
    brain.apply()
    brain.tick(20)
    brain.build(2)
    brain.tick(60)
    assert brain.controller.table.routes["digits"].stable == 2
    assert (brain.rollout()["candidate"], brain.rollout()["state"]) == (2, "promoted")
    assert set(brain.fleet.state()) == {"digits--v2"}
    audit = brain.call("rollout.history", model="digits")["audit"]
    ended = [one for one in audit if one["rollout"] == 1][-1]
    assert (ended["event"], ended["detail"]["reason"]) == ("superseded", "a rollout to version 2 took its place")


def test_a_newer_version_takes_the_place_of_a_candidate_that_was_never_there(warming: Brain) -> None:
    warming.build(3)
    warming.tick(60)
    assert (warming.rollout()["candidate"], warming.rollout()["state"]) == (3, "canary")
    assert warming.controller.table.routes["digits"].stable == 1
    assert set(warming.fleet.state()) == {"digits--v1", "digits--v3"}


@pytest.mark.parametrize("start", ["auto", "manual"])
def test_one_that_may_not_take_its_place_leaves_it_waiting(start: str) -> None:
    brain = brain_with({**SURE, "start": start})
    brain.fleet.doom(CANDIDATE, AWAY, transient=True)
    brain.build(2)
    brain.tick(20)
    if start == "manual":
        brain.call("rollout.start", model="digits", version=2)
        brain.tick(20)
        brain.build(3)
    else:
        brain.build(3, **OTHER_SIGNATURE)
    brain.tick(20)
    assert (brain.rollout()["candidate"], brain.rollout()["state"]) == (2, "warming")
    assert brain.rollout()["waits_since_s"] is not None


def test_no_newer_version_takes_the_place_of_a_canary_or_of_what_a_person_holds(canary: Brain, warming: Brain) -> None:
    canary.fleet.sicken(CANDIDATE, AWAY, transient=True)
    warming.call("rollout.pause", model="digits")
    for brain, state in ((canary, "canary"), (warming, "paused")):
        brain.tick(20)
        brain.build(3)
        brain.tick(20)
        assert (brain.rollout()["candidate"], brain.rollout()["state"]) == (2, state)


PREFLIGHT: dict[str, Any] = {**SURE, "preflight": {"payloads": "s3://payloads", "min_rows": 10}}


def test_a_preflight_whose_store_is_away_is_made_again_by_another_job() -> None:
    brain = brain_with(PREFLIGHT)
    brain.build(2)
    brain.tick(5)
    for number in range(1, 3):
        brain.jobs.end(brain.jobs.submitted[-1].job, JobState.FAILED, AWAY, transient=True)
        brain.tick(2)
        assert brain.rollout()["state"] == "warming"
        assert AWAY in brain.rollout()["reason"]
        assert len(brain.jobs.submitted) == number
        brain.tick(40)
        assert len(brain.jobs.submitted) == number + 1
    assert len({one.job for one in brain.jobs.submitted}) == 3
    brain.call("rollout.preflight", model="digits", rollout=2, p99_ms=2.0, same=100, different=0, failed=0)
    brain.tick(2)
    assert (brain.rollout()["state"], brain.rollout()["reason"]) == ("canary", "")
    assert [event for event, _ in events_of(brain)] == ["started", "warming", "waits", "preflight", "goes on", "canary"]


def test_the_store_away_is_saved_once_and_not_at_every_look(warming: Brain) -> None:
    seen = [warming.store.load().rollouts[2].wait]
    for _ in range(200):
        warming.tick()
        seen.append(warming.store.load().rollouts[2].wait)
    changes = sum(before != after for before, after in itertools.pairwise(seen))
    assert changes <= 2 * warming.fleet.deployed.count(CANDIDATE)
