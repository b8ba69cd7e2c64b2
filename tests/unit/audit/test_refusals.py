"""What was refused stands in the audit: who, from where, what and why; a flood of it does not."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.access.callers import CLUSTER, STRANGER, Caller, Role, grant_of
from cluster.audit import refusals
from cluster.audit.trail import COUNT_EVERY_S
from cluster.audit.uses import OTHERS
from cluster.controller import Point
from cluster.errors import BadInput, Forbidden, HeadraceError, NotFound, Unauthenticated, Unreachable
from tests.support.brain import Brain
from tests.unit.audit.test_uses import ONE, Full, recorded

TEAM = Caller("key team", (grant_of((Role.VIEW,)),)).by("http", b"192.0.2.7")
SCALE = {"model": "digits", "replicas": 2}


@pytest.fixture
def brain() -> Brain:
    brain = Brain()
    brain.serve_first()
    return brain


def refused(brain: Brain, command: str, payload: dict[str, Any], caller: Caller, kind: type[HeadraceError]) -> None:
    with pytest.raises(kind):
        brain.controller.call(command, payload, caller)


def test_the_first_is_told_at_once_and_the_rest_after_a_minute(brain: Brain) -> None:
    for _ in range(500):
        refused(brain, "model.scale", SCALE, TEAM, Forbidden)
    (first,) = recorded(brain, "command refused")
    told = {"command": "model.scale", "reason": "Forbidden", "times": 1}
    assert (first["actor"], first["door"], first["address"], first["model"]) == ("key team", "http", "192.0.2.7", "digits")
    assert first["detail"] == told
    brain.tick(30, each_s=1)
    assert len(recorded(brain, "command refused")) == 1
    brain.tick(40, each_s=1)
    again = recorded(brain, "command refused")[1:]
    assert [one["detail"]["times"] for one in again] == [499]
    assert again[0]["detail"]["from_s"] == again[0]["detail"]["to_s"]  # the clock stood
    refused(brain, "model.scale", SCALE, TEAM, Forbidden)
    assert len(recorded(brain, "command refused")) == 3


def test_a_report_of_uses_at_the_end_of_a_minute_does_not_forget_them(brain: Brain) -> None:
    for _ in range(500):
        refused(brain, "model.scale", SCALE, TEAM, Forbidden)
    brain.clock.now_s += 61
    brain.controller.push(ONE)  # before the tick that tells them
    brain.tick()
    assert [one["detail"]["times"] for one in recorded(brain, "command refused")] == [1, 499]


def test_what_was_sent_is_not_in_it(brain: Brain) -> None:
    refused(brain, "secret-command", {"model": "secret-model"}, TEAM, NotFound)
    refused(brain, "apply", {"models": [{"name": "digits", "secret-field": "secret"}]}, CLUSTER, BadInput)
    refused(brain, "key.create", {"name": "secret", "id": 7}, STRANGER, BadInput)
    told = recorded(brain, "command refused")
    assert [(one["detail"]["command"], one["detail"]["reason"]) for one in told] == [
        ("", "NotFound"),
        ("apply", "BadInput"),
        ("key.create", "BadInput"),
    ]
    assert "secret" not in str(told)


def test_of_what_only_looks_it_is_told_that_one_may_not(brain: Brain) -> None:
    refused(brain, "model.show", {"model": "nothing"}, CLUSTER, NotFound)
    refused(brain, "audit.list", {}, TEAM, Forbidden)
    refused(brain, "audit.list", {}, STRANGER, Unauthenticated)
    assert [one["actor"] for one in recorded(brain, "command refused")] == ["key team", "anybody"]


def test_a_flood_of_kinds_is_bounded(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "KINDS_MOST", 4)
    for number in range(1000):
        caller = Caller(f"token {number}", (grant_of((Role.VIEW,)),))
        refused(brain, "model.scale", SCALE, caller, Forbidden)
    brain.tick(62, each_s=1)
    told = recorded(brain, "command refused")
    assert len(told) == 5
    assert (told[-1]["actor"], told[-1]["detail"]["times"]) == (OTHERS, 996)


def test_one_that_could_not_be_written_is_told_later() -> None:
    store = Full()
    brain, points = Brain(store), list[Point]()
    brain.serve_first()
    brain.revive(points.append)
    brain.tick(3)
    store.full = True
    refused(brain, "model.scale", SCALE, TEAM, Forbidden)  # and not that the store is away
    refused(brain, "model.scale", SCALE, TEAM, Forbidden)
    points.clear()
    brain.tick(70, each_s=1)
    assert points.count(Point.ACTED) == 70  # what has nothing to save goes on
    store.full = False
    assert recorded(brain, "command refused") == []
    brain.tick(2)
    assert [one["detail"]["times"] for one in recorded(brain, "command refused")] == [2]


def test_what_is_written_is_not_told_again_where_callers_cannot_be_counted(brain: Brain, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> int:
        raise Unreachable("the store is away", where="store", remedy="wait")

    monkeypatch.setattr(brain.store, "seen_count", away)
    brain.clock.now_s += COUNT_EVERY_S
    for _ in range(3):
        refused(brain, "model.scale", SCALE, TEAM, Forbidden)
    brain.tick(70, each_s=1)
    assert [one["detail"]["times"] for one in recorded(brain, "command refused")] == [1, 2]


def test_what_could_not_be_tried_was_not_refused() -> None:
    store = Full()
    brain = Brain(store)
    brain.serve_first()
    store.full = True
    refused(brain, "key.create", {"name": "k", "id": "a" * 10, "digest": "0" * 64}, CLUSTER, Unreachable)
    store.full = False
    brain.tick(62, each_s=1)
    assert recorded(brain, "command refused") == []


def test_an_act_says_by_which_door_and_from_where(brain: Brain) -> None:
    boss = Caller("key boss", (grant_of(Role),)).by("console", b"2001:db8::1")
    brain.controller.call("rollout.start", {"model": "digits", "version": brain.build(2)["version"]}, boss)
    event = brain.store.audit("digits")[-1]
    assert (event.event, event.actor, event.door, event.address) == ("started", "key boss", "console", "2001:db8::1")
