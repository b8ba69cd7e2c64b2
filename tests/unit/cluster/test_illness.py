"""When a candidate is too ill: not because it was away once, nor because of what hit stable as well."""

from __future__ import annotations

import pytest

from cluster.rollout.illness import LASTS_S, OFTEN, OFTEN_WITHIN_S, Illness, after_look, lasts, too_ill
from tests.support.brain import SURE, Brain

LONG = {**SURE, "steps": [{"weight": 10, "bake_s": 3600}, {"weight": 100, "bake_s": 5}], "deadline_s": 7200}


def look(illness: Illness, now_s: float, what: str, *, outage: bool = False) -> Illness:
    return after_look(illness, ready=what == "ready", ill=what == "ill", outage=outage, now_s=now_s)


def test_it_lasts_from_the_first_look_until_it_is_ready_whatever_is_seen_between() -> None:
    ill = look(Illness(), 100, "ill")
    assert look(ill, 110, "starting") == ill
    assert look(ill, 120, "ill") == ill
    assert too_ill(ill, 100 + LASTS_S - 1, 0) == ""
    assert too_ill(ill, 100 + LASTS_S, 0) == "for 30 s"
    well = look(ill, 130, "ready")
    assert (well.since_s, well.begun) == (None, (100,))
    assert look(well, 131, "ready") is well
    assert look(Illness(), 1, "starting") == Illness()


def test_one_that_takes_long_to_start_may_take_as_long_to_recover() -> None:
    ill = look(Illness(), 100, "ill")
    assert not lasts(ill, 100 + 2 * 90 - 1, 90)
    assert lasts(ill, 100 + 2 * 90, 90)


def test_it_comes_often() -> None:
    illness = Illness()
    for number in range(OFTEN):
        illness = look(illness, 100 + 60 * number, "ready")
        assert too_ill(illness, 100 + 60 * number, 0) == ""
        illness = look(illness, 101 + 60 * number, "ill")
    assert too_ill(illness, 102 + 60 * (OFTEN - 1), 0) == "3 times within 600 s"


def test_now_and_then_is_not_often() -> None:
    illness = Illness()
    for number in range(10 * OFTEN):
        at_s = OFTEN_WITHIN_S / (OFTEN - 1) * number
        illness = look(look(illness, at_s, "ready"), at_s + 1, "ill")
        assert too_ill(illness, at_s + 2, 0) == ""
    assert len(illness.begun) < OFTEN


def test_what_hits_stable_as_well_counts_only_from_when_stable_is_back() -> None:
    both = look(Illness(), 100, "ill", outage=True)
    first = look(look(Illness(), 99, "ill"), 100, "ill", outage=True)
    for illness in (both, first):
        assert illness == Illness(None, excused=True)
        assert too_ill(look(illness, 500, "ill", outage=True), 500, 0) == ""
        back = look(illness, 500, "ill")
        assert (back.since_s, back.begun) == (500, ())
        assert too_ill(back, 500 + LASTS_S - 1, 0) == ""
        assert too_ill(back, 500 + LASTS_S, 0) == "for 30 s"
        assert look(back, 501, "ready") == Illness()


@pytest.fixture
def canary() -> Brain:
    brain = Brain()
    brain.serve_first(LONG)
    brain.build(2)
    brain.tick(4)
    assert brain.rollout()["state"] == "canary"
    return brain


def test_a_candidate_whose_only_replica_was_killed_once_goes_on(canary: Brain) -> None:
    canary.fleet.sicken("digits--v2", "The replica died.")
    canary.tick(12)  # six seconds
    assert canary.rollout()["state"] == "canary"
    canary.fleet.make_ready("digits--v2")
    canary.tick(4)
    assert (canary.rollout()["state"], canary.rollout()["reason"]) == ("canary", "")
    assert canary.controller.table.routes["digits"].weight == 1000
    audit = canary.call("rollout.history", model="digits")["audit"]
    assert audit[-1]["event"] == "canary"  # nothing is told of it as a transition


def test_one_that_stays_ill_is_rolled_back_also_across_controllers(canary: Brain) -> None:
    canary.fleet.sicken("digits--v2", "The replica died.")
    canary.tick(30)
    canary.revive()
    canary.tick(29)
    assert canary.rollout()["state"] == "canary"
    canary.tick(3)
    assert canary.rollout()["state"] == "rolled_back"
    assert canary.rollout()["reason"] == "the candidate is unhealthy for 30 s: The replica died."


def test_one_that_dies_again_and_again_is_rolled_back(canary: Brain) -> None:
    for _ in range(OFTEN - 1):
        canary.fleet.sicken("digits--v2", "The replica died.")
        canary.tick(12)
        canary.fleet.make_ready("digits--v2")
        canary.tick(60)
    assert canary.rollout()["state"] == "canary"
    canary.fleet.sicken("digits--v2", "The replica died.")
    canary.tick()
    assert canary.rollout()["state"] == "rolled_back"
    assert canary.rollout()["reason"] == "the candidate is unhealthy 3 times within 600 s: The replica died."


def test_a_paused_one_too(canary: Brain) -> None:
    canary.call("rollout.pause", model="digits")
    canary.fleet.sicken("digits--v2", "The replica died.")
    canary.tick(59)
    assert canary.rollout()["state"] == "paused"
    canary.tick(4)
    assert canary.rollout()["state"] == "rolled_back"


def test_what_hits_stable_as_well_says_nothing_however_long(canary: Brain) -> None:
    for app in ("digits--v1", "digits--v2"):
        canary.fleet.sicken(app, "The node died.")
    canary.tick(50, each_s=300)
    assert canary.rollout()["state"] == "canary"
    for app in ("digits--v1", "digits--v2"):
        canary.fleet.make_ready(app)
    canary.tick(2)
    assert canary.rollout()["state"] == "canary"


def test_a_blink_after_the_deadline_is_no_reason_either() -> None:
    brain = Brain()
    brain.serve_first({**LONG, "deadline_s": 50})
    brain.build(2)
    brain.tick(4)
    brain.tick(each_s=60)
    assert "neither proven good nor bad" in brain.rollout()["reason"]
    brain.fleet.sicken("digits--v2", "The replica died.")
    brain.tick(12)
    brain.fleet.make_ready("digits--v2")
    brain.tick(2)
    assert brain.rollout()["state"] == "canary"


def test_one_that_waits_for_stable_to_come_back_does_not_miss_its_deadline_by_that() -> None:
    brain = Brain()
    brain.serve_first()
    brain.build(2)
    brain.fleet.hold_back("digits--v2")
    brain.tick(2)
    brain.fleet.sicken("digits--v1", "The node died.")
    brain.tick(4, each_s=60)
    assert brain.rollout()["state"] == "warming"
    brain.fleet.make_ready("digits--v1")
    brain.tick()
    assert brain.rollout()["state"] == "rolled_back"
    assert brain.rollout()["reason"].startswith("not ready within 100 s")
