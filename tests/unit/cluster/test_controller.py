"""The controller over a fake fleet: what it does with versions, rollouts, scale and streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cluster.audit.uses import SeenCallers
from cluster.errors import BadInput, Conflict, Fenced, NotFound, Unreachable
from cluster.fleet.serving import Serving
from cluster.rollout.illness import LASTS_S
from cluster.routing.routes import Standing
from cluster.schedule.cron import Schedule
from cluster.state import AuditEvent, State
from cluster.store.memory import MemoryStore
from cluster.versions import Version
from deployments.serving.fake_fleet import FakeFleet
from tests.support.brain import SIGNATURE, SURE, Brain


@pytest.fixture
def brain() -> Brain:
    return Brain()


def test_the_first_version_goes_straight_to_stable_once_ready(brain: Brain) -> None:
    brain.build(1)
    brain.tick()
    assert brain.fleet.deployed == []  # nothing runs before its document is applied
    brain.apply()
    brain.tick()
    assert brain.fleet.deployed == ["digits--v1"]
    assert brain.controller.table.routes == {}
    brain.tick(3)
    route = brain.controller.table.routes["digits"]
    assert (route.stable, route.candidate, set(route.targets)) == (1, None, {1})


def test_a_good_version_goes_through_its_steps_and_the_former_stays_warm_then_goes(brain: Brain) -> None:
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    route = brain.controller.table.routes["digits"]
    assert (route.candidate, route.weight, route.stage, route.trial) == (2, 1000, "r2.1", True)
    brain.score(1, rows=9000)
    brain.score(2, rows=1000)
    brain.tick(11)
    route = brain.controller.table.routes["digits"]
    assert (route.weight, route.trial) == (10_000, False)
    brain.score(2, rows=1000)
    brain.tick(11)
    route = brain.controller.table.routes["digits"]
    assert (route.stable, route.candidate, set(route.targets)) == (2, None, {1, 2})
    assert brain.rollout()["state"] == "promoted"
    brain.tick(each_s=61)
    assert set(brain.controller.table.routes["digits"].targets) == {2}
    assert brain.fleet.retired == []  # out of the table first, retired after the grace
    brain.tick(each_s=11)
    assert brain.fleet.retired == ["digits--v1"]


def test_it_is_settled_while_nothing_happens_and_nothing_is_wrong(brain: Brain) -> None:
    brain.build(1)
    brain.apply()
    brain.tick()
    assert not brain.controller.settled
    brain.tick(4)
    assert brain.controller.settled
    brain.fleet.sicken("digits--v1", "gone")
    brain.tick()
    assert not brain.controller.settled
    brain.fleet.make_ready("digits--v1")
    brain.tick(2)
    assert brain.controller.settled
    brain.fleet.away = True
    brain.tick()
    assert not brain.controller.settled
    brain.fleet.away = False
    brain.build(2)
    brain.tick(4)
    assert not brain.controller.settled  # a rollout is under way


def test_a_step_of_next_to_none_or_all_of_the_traffic_leaves_some_to_either_version(brain: Brain) -> None:
    steps = [{"weight": weight, "bake_s": 5} for weight in (0.001, 99.999, 100)]
    brain.serve_first({"steps": steps, "checks": {"error_rate": {"margin": 0.5}}})
    brain.build(2)
    weights = []
    for _ in range(2):
        brain.tick(4)
        weights.append(brain.controller.table.routes["digits"].weight)
        brain.score(1, rows=1000)
        brain.score(2, rows=1000)
        brain.tick(10)
    assert weights == [1, 9999]


def test_proven_harm_rolls_back_at_once(brain: Brain) -> None:
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    brain.score(1, rows=9000)
    brain.score(2, rows=1000, errors=60)
    brain.tick()
    rollout = brain.rollout()
    assert rollout["state"] == "rolled_back"
    assert "error rate: candidate" in rollout["reason"]
    assert (rollout["step"], rollout["steps"]) == (1, 2)
    route = brain.controller.table.routes["digits"]
    assert (route.stable, route.candidate, route.weight) == (1, None, 0)
    brain.tick(each_s=11)
    assert brain.fleet.retired == ["digits--v2"]
    brain.tick(20)
    assert brain.fleet.deployed == ["digits--v1", "digits--v2"]  # it is not tried again by itself


def test_the_audit_says_which_check_when_and_from_which_counts(brain: Brain) -> None:
    plan = {"steps": [{"shadow": 50, "bake_s": 1}, *SURE["steps"]], "checks": {"disagreement": {"margin": 0.1}}}
    brain.serve_first(plan)
    brain.build(2)
    brain.tick(4)
    brain.score(1, rows=90_000_000, errors=1_234_567)
    brain.score(2, rows=450, errors=1, compared=450, disagreed=400)
    brain.tick()
    last = brain.call("rollout.history", model="digits")["audit"][-1]
    assert (last["rollout"], last["event"], last["actor"]) == (2, "rolled_back", "check disagreement")
    assert last["at_s"] == brain.clock.now_s
    error_rate, disagreement = last["detail"]["checks"]
    assert error_rate.startswith("error rate: candidate ")
    assert error_rate.endswith(": passed (candidate 1 of 450, stable 1234567 of 90000000)")
    assert disagreement == f"{last['detail']['reason']} (candidate 400 of 450)"


def test_a_candidate_that_cannot_load_is_rolled_back_with_its_message(brain: Brain) -> None:
    brain.serve_first()
    brain.fleet.doom("digits--v2", "no such operator")
    brain.build(2)
    brain.tick(3)
    assert brain.rollout()["state"] == "rolled_back"
    assert "no such operator" in brain.rollout()["reason"]


def test_a_mistake_in_one_action_keeps_no_other_from_being_done() -> None:
    class Mistaken(FakeFleet):
        def deploy(self, version: Version, serving: Serving, replicas: int) -> None:
            if version.id.number == 2:
                raise ZeroDivisionError
            super().deploy(version, serving, replicas)

    brain = Brain(fleet=Mistaken())
    brain.serve_first()
    brain.build(2)
    brain.call("apply", feeds=[{"kind": "stream", "name": "events", "model": "digits", "spec": {}}])
    brain.tick(2)
    assert brain.fleet.deployed == ["digits--v1"]
    assert set(brain.streams.running) == {"events"}


def test_no_traffic_is_held_after_the_deadline_and_goes_on_when_evidence_comes(brain: Brain) -> None:
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    brain.tick(3, each_s=60)
    rollout = brain.rollout()
    assert (rollout["state"], rollout["step"]) == ("canary", 1)
    assert "neither proven good nor bad within 100 s: error rate: nothing observed" in rollout["reason"]
    brain.score(1, rows=9000)
    brain.score(2, rows=1000)
    brain.tick()
    assert brain.rollout()["step"] == 2


def test_the_deadline_may_roll_back(brain: Brain) -> None:
    brain.serve_first({**SURE, "on_deadline": "rollback"})
    brain.build(2)
    brain.tick(4)
    brain.tick(2, each_s=60)
    assert brain.rollout()["state"] == "rolled_back"


def test_a_person_pauses_resumes_promotes(brain: Brain) -> None:
    brain.serve_first()
    brain.build(2)
    with pytest.raises(Conflict):
        brain.call("rollout.promote", model="digits")
    brain.tick(4)
    brain.call("rollout.pause", model="digits", actor="ann")
    brain.tick(3, each_s=60)
    assert brain.controller.table.routes["digits"].weight == 1000
    assert brain.rollout()["paused"] is True
    brain.call("rollout.resume", model="digits")
    brain.tick()
    assert (brain.rollout()["state"], brain.rollout()["reason"]) == ("canary", "")  # the pause did not use up the deadline
    brain.call("rollout.promote", model="digits", actor="ann")
    brain.tick()
    assert brain.controller.table.routes["digits"].stable == 2
    with pytest.raises(Conflict, match="no rollout is under way"):
        brain.call("rollout.abort", model="digits")
    audit = brain.call("rollout.history", model="digits")["audit"]
    assert [(event["event"], event["actor"]) for event in audit if event["rollout"] == 2] == [
        ("started", "controller"),
        ("warming", "controller"),
        ("canary", "controller"),
        ("paused", "ann"),
        ("canary", "a person"),
        ("promoted", "ann"),
    ]


def test_supersede_and_going_back_to_a_warm_version_in_one_table_change(brain: Brain) -> None:
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    with pytest.raises(Conflict, match="under way"):
        brain.call("rollout.start", model="digits", version=2)
    brain.call("rollout.promote", model="digits")
    brain.tick()
    number = brain.controller.table.number
    brain.call("rollout.start", model="digits", version=1, plan={"steps": [{"weight": 100, "bake_s": 0}]})
    brain.tick()
    assert brain.controller.table.routes["digits"].stable == 1
    assert brain.controller.table.number == number + 1
    brain.build(3)
    brain.tick()
    brain.build(4)
    brain.call("rollout.start", model="digits", version=4, supersede=True)
    history = brain.call("rollout.history", model="digits")["rollouts"]
    assert [rollout["state"] for rollout in history] == ["pending", "superseded", "promoted", "promoted", "promoted"]


def test_another_signature_is_refused(brain: Brain) -> None:
    brain.serve_first()
    other = {**SIGNATURE, "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 5]}]}
    brain.build(2, **other)
    brain.tick(3)
    assert brain.rollout()["candidate"] == 1  # the automatic start was refused, once
    audit = brain.call("rollout.history", model="digits")["audit"]
    assert [event["event"] for event in audit].count("refused") == 1
    with pytest.raises(Conflict, match=r"input 'input' is FP32 \[-1, 5\], not FP32 \[-1, 4\]"):
        brain.call("rollout.start", model="digits", version=2)


def test_a_wider_signature_needs_somebodys_word_and_the_way_back_is_one_change(brain: Brain) -> None:
    """More outputs, and any length where stable takes one: a split can bear that, the way back only at once."""
    brain.serve_first()
    wider = {
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, -1]}],
        "outputs": [*SIGNATURE["outputs"], {"name": "why", "datatype": "FP32", "shape": [-1, 3]}],
    }
    brain.build(2, **wider)
    brain.tick(3)
    with pytest.raises(Conflict, match="headrace rollout start --compatible"):
        brain.call("rollout.start", model="digits", version=2)
    brain.call("rollout.start", model="digits", version=2, compatible=True)
    brain.tick(3)
    assert brain.controller.table.routes["digits"].candidate == 2
    started = [e for e in brain.call("rollout.history", model="digits")["audit"] if e["event"] == "started"][-1]
    assert started["detail"]["compatible"] is True
    brain.call("rollout.promote", model="digits")
    brain.tick()
    with pytest.raises(Conflict, match="--plan instant --compatible"):
        brain.call("rollout.start", model="digits", version=1, plan="instant")
    with pytest.raises(Conflict, match="--plan instant --compatible"):
        brain.call("rollout.start", model="digits", version=1, compatible=True)
    brain.call("rollout.start", model="digits", version=1, plan="instant", compatible=True)
    brain.tick()
    assert brain.controller.table.routes["digits"].stable == 1


def test_nobodys_word_makes_another_datatype_compatible(brain: Brain) -> None:
    brain.serve_first()
    brain.build(2, **{**SIGNATURE, "inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}]})
    brain.tick(3)
    for plan in (None, "instant"):
        with pytest.raises(Conflict, match="a model name of its own"):
            brain.call("rollout.start", model="digits", version=2, plan=plan, compatible=True)


def test_a_tolerance_for_an_output_that_there_is_not_is_refused(brain: Brain) -> None:
    checks = {"disagreement": {"margin": 0.1, "tolerance": {"outputs": 0.5}}}
    plan = {"steps": [{"shadow": 10}, {"weight": 100}], "checks": checks, "start": "manual"}
    brain.serve_first()
    brain.apply(plan)
    brain.build(2)
    with pytest.raises(Conflict, match=r"no output 'outputs' .its outputs: output"):
        brain.call("rollout.start", model="digits", version=2)
    checks["disagreement"]["tolerance"] = {"output": 0.5}
    brain.apply(plan)
    brain.call("rollout.start", model="digits", version=2)
    brain.tick(3)
    assert brain.controller.table.routes["digits"].tolerance == {"output": 0.5}


def test_blue_green_goes_all_at_once_and_back_when_it_proves_worse(brain: Brain) -> None:
    brain.serve_first()
    brain.build(2)
    brain.call("rollout.start", model="digits", version=2, plan="blue_green", supersede=True)
    brain.tick(3)
    route = brain.controller.table.routes["digits"]
    assert (route.stable, route.candidate, route.weight) == (1, 2, 10_000)
    brain.score(2, rows=500, errors=100)
    brain.tick()
    assert brain.rollout()["state"] == "rolled_back"
    assert brain.controller.table.routes["digits"].stable == 1


def test_instant_is_one_table_change_between_warm_versions_and_keeps_the_former_warm(brain: Brain) -> None:
    brain.serve_first()
    brain.build(2)
    brain.tick()
    brain.call("rollout.start", model="digits", version=2, plan="instant", supersede=True)
    brain.tick(3)
    for version in (1, 2, 1):
        number = brain.controller.table.number
        brain.call("rollout.start", model="digits", version=version, plan="instant")
        brain.tick()
        route = brain.controller.table.routes["digits"]
        assert (route.stable, route.candidate, brain.controller.table.number) == (version, None, number + 1)
        assert set(route.targets) == {1, 2}  # SURE keeps the former warm for a minute
    with pytest.raises(BadInput, match="'instant' or 'blue_green'"):
        brain.call("rollout.start", model="digits", version=2, plan="overnight")


def test_scale_by_hand_is_remembered_through_the_loss_of_the_cluster_and_never_undone(brain: Brain) -> None:
    brain.serve_first(serving={"scaling": {"mode": "manual", "replicas": 2}})
    brain.fleet.scale_by_hand("digits--v1", 5)
    brain.tick(2)
    assert brain.fleet.state()["digits--v1"].target_replicas == 5
    brain.fleet.vanish("digits--v1")
    brain.revive()
    brain.tick(4)
    assert brain.fleet.state()["digits--v1"].target_replicas == 5
    brain.call("model.scale", model="digits", replicas=3)
    brain.tick(2)
    assert brain.fleet.state()["digits--v1"].target_replicas == 3
    brain.fleet.scale_by_hand("digits--v1", 4)
    brain.tick(3)
    assert brain.fleet.state()["digits--v1"].target_replicas == 4


def test_no_replicas_are_a_number_too(brain: Brain) -> None:
    brain.serve_first(serving={"scaling": {"mode": "manual", "replicas": 0}})
    brain.tick(3)
    assert brain.fleet.state()["digits--v1"].target_replicas == 0
    brain.call("model.scale", model="digits", replicas=2)
    brain.tick(3)
    assert brain.fleet.state()["digits--v1"].target_replicas == 2
    brain.fleet.scale_by_hand("digits--v1", 0)
    brain.tick(3)
    brain.fleet.vanish("digits--v1")
    brain.revive()
    brain.tick(6)
    assert brain.fleet.state()["digits--v1"].target_replicas == 0


def test_a_promoted_version_takes_the_number_that_a_person_gave_meanwhile(brain: Brain) -> None:
    brain.serve_first(serving={"scaling": {"mode": "manual", "replicas": 2}})
    brain.build(2)
    brain.tick(4)
    brain.fleet.scale_by_hand("digits--v1", 5)
    brain.tick(2)
    brain.call("rollout.promote", model="digits")
    brain.tick(3)
    assert brain.fleet.state()["digits--v2"].target_replicas == 5
    brain.fleet.scale_by_hand("digits--v2", 3)
    brain.tick(3)
    assert brain.fleet.state()["digits--v2"].target_replicas == 3


def test_scale_of_an_automatic_model_is_refused(brain: Brain) -> None:
    brain.serve_first()
    with pytest.raises(Conflict, match="not scaled by hand"):
        brain.call("model.scale", model="digits", replicas=3)


def test_streams_follow_what_is_wanted(brain: Brain) -> None:
    feed = {"kind": "stream", "name": "scores", "model": "digits", "spec": {"topic": "in"}}
    brain.build(1)
    brain.apply(feeds=[feed])
    brain.tick()
    assert brain.streams.running == {}  # its model does not serve yet
    brain.tick(3)
    digest = brain.streams.running["scores"].digest
    assert brain.call("feed.show", kind="stream", name="scores")["status"] == "ready"
    brain.apply(feeds=[{**feed, "spec": {"topic": "other"}}])
    older = brain.call("feed.show", kind="stream", name="scores")
    assert (older["status"], older["replicas"], older["workers"]) == ("starting", 0, [])
    assert older["message"] == "what runs of the last document drains first (1 replicas)"
    brain.tick()
    assert brain.streams.running["scores"].digest != digest
    brain.call("feed.pause", kind="stream", name="scores")
    brain.tick()
    assert brain.streams.running == {}
    brain.call("feed.resume", kind="stream", name="scores")
    brain.tick()
    assert set(brain.streams.running) == {"scores"}


def test_apply_is_idempotent_and_all_or_nothing(brain: Brain) -> None:
    assert brain.apply()["changes"][0]["action"] == "created"
    assert brain.apply()["changes"][0]["action"] == "unchanged"
    assert brain.apply({**SURE, "alpha": 0.1})["changes"][0]["action"] == "updated"
    with pytest.raises(BadInput, match="there is no model 'other'"):
        brain.call("apply", models=[{"name": "fresh"}], feeds=[{"kind": "stream", "name": "s", "model": "other", "spec": {}}])
    assert [model["name"] for model in brain.call("status")["models"]] == ["digits"]


def test_apply_says_that_a_rollout_under_way_keeps_its_plan(brain: Brain) -> None:
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    assert brain.call("rollout.status", model="digits")["rollout"]["state"] == "canary"
    (same,) = brain.apply()["changes"]
    assert (same["action"], same["note"]) == ("unchanged", "")
    (other,) = brain.apply({**SURE, "alpha": 0.1})["changes"]
    assert other["action"] == "updated"
    assert other["note"] == "the rollout of version 2 keeps its plan; the new one is for the next"
    (scaled,) = brain.apply({**SURE, "alpha": 0.1}, {"timeout_s": 3.0})["changes"]
    assert (scaled["action"], scaled["note"]) == ("updated", "")


def test_versions_are_registered_once_and_removed_only_when_idle(brain: Brain) -> None:
    brain.serve_first()
    assert brain.build(1)["role"] == "stable"
    with pytest.raises(Conflict, match="it is stable"):
        brain.call("version.remove", model="digits", version=1)
    brain.fleet.doom("digits--v2", "broken")
    brain.build(2)
    brain.tick(3)
    brain.tick(4, each_s=11)
    brain.call("version.remove", model="digits", version=2)
    with pytest.raises(NotFound, match="there is no version 2"):
        brain.call("version.resolve", model="digits", version=2)
    brain.build(3)  # numbers are never given out twice
    assert brain.call("version.resolve", model="digits")["version"] == 1


def test_bad_calls_name_the_field(brain: Brain) -> None:
    with pytest.raises(NotFound, match=r"no command 'rollout\.begin'"):
        brain.call("rollout.begin")
    with pytest.raises(BadInput, match=": weights must rise"):
        brain.apply({"steps": [{"weight": 50}, {"weight": 10}, {"weight": 100}]})
    with pytest.raises(BadInput, match=r"gpus` would stand idle"):
        brain.apply(serving={"transport": "embedded", "resources": {"gpus": 1}})
    with pytest.raises(BadInput, match=r"model\.scale: replicas"):
        brain.call("model.scale", model="digits", replicas=-1)
    with pytest.raises(NotFound, match="no model 'nope'"):
        brain.call("model.show", model="nope")


@pytest.mark.parametrize("number", ["inf", 1e400])
def test_a_number_that_no_store_can_keep_is_refused(brain: Brain, number: Any) -> None:
    """JSON has no infinity: once kept, it could not be read again, and no controller would ever start."""
    brain.serve_first()
    for plan in ({"deadline_s": number}, {"steps": [{"weight": 100, "bake_s": number}]}, {"keep_warm_s": number}):
        with pytest.raises(BadInput, match="finite number"):
            brain.apply(plan)
    for serving in ({"timeout_s": number}, {"resources": {"gpus": number}}, {"scaling": {"target_ongoing": number}}):
        with pytest.raises(BadInput, match="finite number"):
            brain.apply(serving=serving)
    with pytest.raises(BadInput, match="finite number"):
        brain.call("rollout.start", model="digits", plan={"steps": [{"weight": 100}], "deadline_s": number})
    schedule = {"cron": "0 0 * * *", "backoff_s": number}
    with pytest.raises(BadInput, match="finite number"):
        brain.call("apply", feeds=[{"kind": "batch", "name": "n", "model": "digits", "spec": {}, "schedule": schedule}])
    brain.revive()
    brain.tick()
    assert brain.controller.table.routes["digits"].stable == 1


def test_a_cron_line_with_seconds_is_refused_but_one_that_is_kept_is_read(brain: Brain) -> None:
    batch = {"kind": "batch", "name": "n", "model": "digits", "spec": {}, "schedule": {"cron": "0 30 2 * * *"}}
    brain.serve_first()
    with pytest.raises(BadInput, match="has 6 fields; it takes five, without seconds"):
        brain.call("apply", feeds=[batch])
    brain.call("apply", feeds=[batch | {"schedule": {"cron": "30 2 * * *"}}])
    before = brain.store.load()
    feed = before.feeds["batch--n"]
    kept = replace(feed, spec=replace(feed.spec, schedule=Schedule(cron="0 30 2 * * *")))
    fence = brain.store.acquire()
    brain.store.save(fence, before, replace(before, feeds={"batch--n": kept}), [])
    brain.revive()
    brain.tick()
    assert brain.store.load().feeds["batch--n"].spec.schedule == kept.spec.schedule


@pytest.mark.parametrize("name", ["stream", "batch", "gateway"])
def test_a_model_cannot_have_the_name_of_other_apps(brain: Brain, name: str) -> None:
    with pytest.raises(BadInput, match=f"say {name}-model"):
        brain.call("apply", models=[{"name": name}])
    brain.serve_first()
    stream = {"kind": "stream", "name": name, "model": "digits", "spec": {}}
    assert brain.call("apply", feeds=[stream])["changes"][0]["action"] == "created"


def test_a_resent_batch_counts_once_and_evidence_of_an_earlier_step_not_at_all(brain: Brain) -> None:
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    brain.score(2, rows=10)
    brain.tick()
    brain.sequence -= 1
    brain.score(2, rows=10)  # the same sequence again
    brain.tick()
    before = brain.rollout()["checks"][0]["high"]
    brain.revive()
    brain.tick()
    brain.sequence -= 1
    brain.score(2, rows=10)  # and again, to the next controller
    brain.tick()
    assert brain.rollout()["checks"][0]["high"] == before
    counts = list(brain.store.load().evidence.values())
    assert [count.rows for count in counts] == [10]


def test_the_fleet_away_leaves_the_table_and_everything_comes_back(brain: Brain) -> None:
    brain.serve_first()
    table = brain.controller.table
    brain.fleet.away = True
    brain.tick(3)
    assert brain.controller.table is table
    brain.build(2)  # commands go on
    brain.fleet.away = False
    brain.tick(4)
    assert brain.controller.table.routes["digits"].candidate == 2


def test_two_controllers_the_fenced_one_cannot_write(brain: Brain) -> None:
    brain.serve_first()
    old = brain.controller
    brain.revive()
    with pytest.raises(Fenced):
        old.call("apply", {"models": [{"name": "other"}]})
    brain.tick()
    assert [model["name"] for model in brain.call("status")["models"]] == ["digits"]


class ShakyStore(MemoryStore):
    """A store that can be away, or take a write and lose the answer."""

    away = False
    mute = False

    def save(
        self, fence: int, before: State, after: State, events: Sequence[AuditEvent], seen: SeenCallers | None = None
    ) -> None:
        if not self.away:
            super().save(fence, before, after, events, seen)
        if self.away or self.mute:
            raise Unreachable("database is locked", where="store", remedy="wait")

    def load(self) -> State:
        if self.away:
            raise Unreachable("database is locked", where="store", remedy="wait")
        return super().load()


def test_while_the_store_is_away_the_table_stands_and_nothing_is_done_or_lost() -> None:
    store = ShakyStore()
    brain = Brain(store)
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    table = brain.controller.table
    brain.score(1, rows=9000)
    brain.score(2, rows=1000, errors=60)
    store.away = True
    brain.tick(3)
    assert brain.controller.table is table  # the harm is proven, but what is not saved is not published
    with pytest.raises(Unreachable):
        brain.call("rollout.pause", model="digits")
    store.away = False
    brain.tick()
    assert brain.rollout()["state"] == "rolled_back"
    assert brain.controller.table.routes["digits"].candidate is None


def test_a_write_whose_answer_got_lost_is_not_made_twice() -> None:
    store = ShakyStore()
    brain = Brain(store)
    brain.serve_first()
    store.mute = True
    with pytest.raises(Unreachable):
        brain.build(2)
    store.mute = False
    brain.build(2)
    brain.tick(4)
    assert brain.controller.table.routes["digits"].candidate == 2
    store.mute = True
    brain.score(1, rows=10)
    brain.score(2, rows=10)
    brain.tick()
    store.mute = False
    brain.tick()
    assert sorted(counts.rows for counts in store.load().evidence.values()) == [10, 10]


def test_stable_keeps_its_route_while_its_replicas_are_away_and_needs_to_be_ready_to_get_one(brain: Brain) -> None:
    brain.serve_first()
    brain.fleet.vanish("digits--v1")
    brain.tick()
    assert set(brain.controller.table.routes["digits"].targets) == {1}  # callers are told to retry, not that it is unknown
    brain.fleet.vanish("digits--v1")
    brain.revive()
    brain.tick()
    assert brain.controller.table.routes == {}
    brain.tick(3)
    assert set(brain.controller.table.routes["digits"].targets) == {1}


def test_the_loss_of_the_cluster_in_the_middle_of_a_rollout_is_no_fault_of_the_candidate(brain: Brain) -> None:
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    brain.fleet.vanish("digits--v1")
    brain.fleet.vanish("digits--v2")
    brain.tick(each_s=200)  # past the deadline
    brain.tick(4)
    assert (brain.rollout()["state"], brain.rollout()["step"]) == ("canary", 1)
    assert brain.controller.table.routes["digits"].weight == 1000
    brain.fleet.vanish("digits--v2")
    brain.tick(4)
    assert brain.rollout()["state"] == "canary"  # it is back within seconds
    brain.fleet.vanish("digits--v2")
    brain.fleet.hold_back("digits--v2")
    brain.tick()
    brain.tick(each_s=LASTS_S)
    assert brain.rollout()["state"] == "rolled_back"
    assert brain.rollout()["reason"].startswith("not ready, and the step's 100 s are over")


def test_a_table_at_rest_is_the_same_object_and_one_of_another_controller_is_numbered_anew_only_where_it_differs(
    brain: Brain,
) -> None:
    brain.serve_first()
    table = brain.controller.table
    brain.tick(3)
    assert brain.controller.table is table
    brain.revive()
    brain.tick(2)
    again = brain.controller.table
    assert again == replace(table, fence=again.fence)
    assert again.stamp > table.stamp
    brain.call("version.register", model="other", artifact_uri="u", digest="d", engine="onnx", signature=SIGNATURE)
    brain.call("apply", models=[{"name": "other"}])
    brain.tick()
    assert brain.controller.table.number == table.number + 1
    assert brain.controller.table.models == {"digits": Standing.READY, "other": Standing.WAITING}
    brain.tick(3)
    assert (brain.controller.table.number, set(brain.controller.table.routes)) == (table.number + 2, {"digits", "other"})
    assert brain.controller.table.models == {"digits": Standing.READY, "other": Standing.READY}
