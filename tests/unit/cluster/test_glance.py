"""What the console shows first: all that runs, and what is wrong with it, in words with a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.access.callers import Caller, Role, grant_of
from cluster.commands.watch.glances import ModelGlance
from cluster.commands.watch.wrong import wrong_with_model
from cluster.drift.alarms import DriftAlarm
from cluster.drift.kinds import RateKind
from cluster.errors import Conflict
from cluster.versions import VersionId
from tests.support.brain import SURE, Brain


def _model(brain: Brain, name: str = "digits") -> dict[str, Any]:
    return next(model for model in brain.call("glance.show")["models"] if model["name"] == name)


def _wrong(brain: Brain) -> list[tuple[str, str]]:
    return [(one["severity"], one["words"]) for one in _model(brain)["wrong"]]


def test_a_rollout_tells_what_it_waits_for_and_until_when() -> None:
    brain = Brain()
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    glance = _model(brain)["rollout"]
    assert (glance["rollout"]["state"], [step["weight"] for step in glance["steps"]]) == ("canary", [10, 100])
    assert glance["waits_for"] == "the step's time to be over and proof from error rate"
    assert glance["deadline_s"] - glance["bake_ends_s"] == 95
    assert brain.clock.now_s < glance["bake_ends_s"] <= brain.clock.now_s + 5
    assert _wrong(brain) == []
    brain.call("rollout.pause", model="digits", actor="ann")
    assert _wrong(brain) == [("waiting", "the rollout to version 2 is paused at 10 % of traffic: paused by ann")]
    assert _model(brain)["rollout"]["bake_ends_s"] is None
    brain.call("rollout.resume", model="digits")
    brain.clock.now_s += SURE["deadline_s"]
    brain.tick()
    [(severity, words)] = _wrong(brain)
    assert severity == "waiting"
    assert words.startswith("the rollout to version 2 waits for a person: neither proven good nor bad within 100 s")
    brain.call("rollout.abort", model="digits", actor="ann")
    assert _wrong(brain) == [("note", "version 2 was taken back: aborted by ann")]
    brain.clock.now_s += 86_400
    assert _wrong(brain) == []


def test_an_ill_version_is_told_with_when_it_is_tried_again() -> None:
    brain = Brain()
    brain.serve_first()
    brain.fleet.fail("digits--v1", "no GPU is free")
    brain.tick()
    [one] = _model(brain)["wrong"]
    assert (one["severity"], one["words"]) == ("broken", "version 1 (stable) is failed: no GPU is free")
    assert brain.clock.now_s < one["until_s"] <= brain.clock.now_s + 5
    assert one["remedy"] == "`headrace logs --model digits:1` has its replicas' last words"


def test_a_model_that_nothing_serves_is_told() -> None:
    brain = Brain()
    brain.build(1)
    brain.apply()
    brain.tick(1)
    assert _wrong(brain) == []  # its first rollout is under way
    brain.call("rollout.abort", model="digits", actor="ann")
    assert ("broken", "no version serves") in _wrong(brain)


def test_alarms_of_drift_are_told_by_the_largest() -> None:
    brain = Brain()
    brain.serve_first()
    glance = ModelGlance.model_validate(_model(brain))
    kinds = iter(RateKind)
    alarms = [
        DriftAlarm(VersionId("digits", 1), name, False, next(kinds), f"{name} is off", 50.0 + js, 50.0, js=js)
        for name, js in (("age", 0.1), ("income", 0.4))
    ]
    [one] = wrong_with_model(glance, "", alarms, 100.0)
    assert one.words == "rows of version 1 have changed: input income: income is off; and 1 more"
    assert (one.severity, one.since_s) == ("waiting", 50.1)
    assert "`headrace drift clear digits`" in one.remedy


def test_a_stream_that_fails_is_told_and_who_may_not_view_its_model_is_not() -> None:
    brain = Brain()
    brain.serve_first()
    brain.streams.broken["orders"] = "the topic is away"
    brain.call("apply", feeds=[{"kind": "stream", "name": "orders", "model": "digits", "spec": {}}])
    brain.tick(4)
    [feed] = brain.call("glance.show")["feeds"]
    assert [one["words"] for one in feed["wrong"]] == ["it is failed: the topic is away"]
    assert feed["next_try_s"] > brain.clock.now_s - 10
    other = Caller("key other", (grant_of((Role.VIEW,), "fraud"),))
    seen = brain.controller.call("glance.show", {}, other)
    assert not seen["models"]
    assert not seen["feeds"]


@pytest.mark.parametrize("move", ["pause", "resume", "promote", "abort"])
def test_a_move_that_was_decided_on_another_state_is_not_made(move: str) -> None:
    brain = Brain()
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    now = brain.rollout()
    seen = {"rollout": now["id"], "state": "canary", "step": 1}
    for stale in ({"state": "shadow"}, {"step": 2}, {"rollout": now["id"] - 1}):
        with pytest.raises(Conflict, match="it has moved on"):
            brain.call(f"rollout.{move}", model="digits", seen=seen | stale)
    assert brain.rollout()["state"] == "canary"
    brain.call(f"rollout.{move}", model="digits", seen=seen)


def test_it_costs_what_runs_and_not_what_was_built() -> None:
    brain = Brain()
    brain.serve_first()
    for number in range(2, 30):
        brain.build(number)
    brain.tick(2)
    model = _model(brain)
    assert (model["versions"], model["newest"], len(model["apps"])) == (29, 29, 2)
