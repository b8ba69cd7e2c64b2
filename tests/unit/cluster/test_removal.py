"""Removing a model, a stream, a batch: drained, refused while in use, audited, and nothing of it stays behind."""

from __future__ import annotations

from typing import Any

import pytest

import cluster.decide
from cluster.controller import Controller
from cluster.errors import BadInput, Conflict, NotFound, Unreachable
from cluster.fleet.desired import RETIRE_GRACE_S
from cluster.ports import AppStatus
from cluster.schedule.jobs import JobState
from cluster.state import AuditEvent
from tests.support.brain import SIGNATURE, SURE, Brain

STREAM = {"kind": "stream", "name": "scores"}
BATCH = {"kind": "batch", "name": "nightly"}
EVERY_MINUTE = {"cron": "* * * * *"}
DIGITS = {"model": "digits"}
ARTIFACT = {"artifact_uri": "file:///artifacts/1", "digest": "sha256-1", "engine": "onnx", "signature": SIGNATURE}


def feed(of: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**of, "model": "digits", "spec": {}, **more}


def serving(*feeds: dict[str, Any], plan: dict[str, Any] | None = None) -> Brain:
    """Version 1 of `digits` is stable; these score with it."""
    brain = Brain()
    brain.build(1)
    brain.apply(plan, feeds=list(feeds))
    brain.tick(4)
    assert brain.controller.table.routes["digits"].stable == 1
    return brain


def with_artifacts(brain: Brain, remove: Any) -> None:
    """The controller anew, over the same world, with this way to remove artifacts."""
    brain.controller = Controller(brain.store, brain.fleet, brain.streams, brain.jobs, brain.clock, remove_artifact=remove)


def told(brain: Brain) -> list[AuditEvent]:
    return brain.store.audit("digits")


def test_a_model_leaves_the_table_first_and_its_replicas_follow() -> None:
    brain = serving()
    view = brain.call("model.delete", **DIGITS, actor="ann")
    assert view["removing"] == "waits for the next look"
    number = brain.controller.table.number
    brain.tick()
    assert (brain.controller.table.routes, brain.controller.table.number) == ({}, number + 1)
    assert brain.fleet.retired == []  # scorers may not have seen the table yet
    assert "its replicas go in" in brain.call("model.show", **DIGITS)["removing"]
    brain.tick(each_s=RETIRE_GRACE_S)
    assert brain.fleet.retired == ["digits--v1"]
    assert brain.call("model.show", **DIGITS)["removing"] == "its replicas are going away: digits--v1"
    brain.tick(3)
    assert brain.fleet.state() == {}
    for command in ("model.show", "rollout.status", "model.delete", "version.resolve"):
        with pytest.raises(NotFound, match="no model 'digits'"):
            brain.call(command, **DIGITS)
    assert brain.call("rollout.history", **DIGITS)["audit"][-1]["event"] == "deleted"
    deleted = [(event.event, event.actor, event.detail) for event in told(brain)][-2:]
    assert deleted == [("model.delete", "ann", {"artifacts": False}), ("deleted", "controller", {"last_number": 1})]


def test_nothing_of_it_stays_but_its_audit() -> None:
    plan = {**SURE, "checks": {"labels": {"margin": 0.1, "output": "output"}}}
    brain = serving(plan=plan)
    brain.build(2)
    brain.tick(3)
    brain.score(1, rows=10)
    brain.score(2, rows=10)
    brain.tick()
    brain.call("rollout.label", **DIGITS, labels=[{"key": "nonsense", "label": 1}], source="here", sequence=1)
    before = brain.store.load()
    assert before.evidence
    assert "labels/digits/here" in before.scorers
    other = {"model": "other", "artifact_uri": "file:///o", "digest": "o", "engine": "onnx", "signature": SIGNATURE}
    brain.call("version.register", **other)
    brain.call("model.delete", **DIGITS, actor="ann")
    brain.tick()
    (ended,) = [event for event in told(brain) if event.event == "rolled_back"]
    assert (ended.actor, ended.detail["reason"]) == ("ann", "its model is being removed")
    brain.tick(6, each_s=RETIRE_GRACE_S)
    after = brain.store.load()
    assert set(after.models) == {"other"}
    assert set(brain.controller.table.models) == {"other"}  # gateways answer as of one that never was
    assert {version.model for version in after.versions} == {"other"}
    assert (after.rollouts, after.evidence) == ({}, {})
    assert not [scorer for scorer in after.scorers if "digits" in scorer]
    assert brain.fleet.state() == {}
    assert {event.event for event in told(brain)} > {"registered", "rolled_back", "deleted"}


def test_it_is_refused_while_something_scores_with_it_and_says_what_to_do() -> None:
    brain = serving(feed(STREAM), feed(BATCH))
    before = brain.store.load(), told(brain)
    with pytest.raises(Conflict, match="stream scores, batch nightly score with it") as caught:
        brain.call("model.delete", **DIGITS)
    assert caught.value.remedy.startswith("first `headrace delete stream scores`, or apply it with another model")
    assert (brain.store.load(), told(brain)) == before


def test_a_model_waits_for_those_that_are_on_their_way_out() -> None:
    brain = serving(feed(STREAM))
    brain.call("feed.delete", **STREAM)
    assert brain.call("model.delete", **DIGITS)["removing"] == "waits for stream scores"
    brain.streams.away = True
    brain.tick(4, each_s=RETIRE_GRACE_S)
    assert "digits" in brain.controller.table.routes  # what drains still scores
    brain.streams.away = False
    brain.tick(6, each_s=RETIRE_GRACE_S)
    state = brain.store.load()
    assert (state.models, state.feeds, brain.streams.running, brain.fleet.state()) == ({}, {}, {}, {})


def test_a_stream_is_stopped_and_forgotten_with_its_notes() -> None:
    brain = serving(feed(STREAM))
    brain.call("feed.notes", **STREAM, notes={"begins/in/0": "17"})
    assert brain.call("feed.delete", **STREAM, actor="ann")["removing"] == "it drains"
    with pytest.raises(Conflict, match="it is being removed"):
        brain.call("feed.resume", **STREAM)
    brain.call("feed.notes", **STREAM, notes={"begins/in/1": "3"})  # what drains may still want something remembered
    brain.tick(2)
    assert (brain.streams.running, brain.store.load().feeds) == ({}, {})
    with pytest.raises(NotFound, match="no stream 'scores'"):
        brain.call("feed.show", **STREAM)
    events = [(event.event, event.actor, event.detail) for event in told(brain) if event.detail.items() >= STREAM.items()]
    assert [event[:2] for event in events[-2:]] == [("feed.delete", "ann"), ("deleted", "controller")]


def test_a_batchs_running_job_is_stopped_first() -> None:
    brain = serving(feed(BATCH, schedule=EVERY_MINUTE))
    brain.tick(2, each_s=60)
    (job,) = [submitted.job for submitted in brain.jobs.submitted]
    assert brain.call("feed.delete", **BATCH)["removing"] == "its job is being stopped"
    brain.jobs.away = True
    brain.tick(3)
    assert "batch--nightly" in brain.store.load().feeds  # nobody knows whether its job runs
    brain.jobs.away = False
    brain.tick(2)
    assert brain.jobs.state([job])[job].state is JobState.FAILED
    assert brain.store.load().feeds == {}
    brain.tick(3, each_s=60)
    assert len(brain.jobs.submitted) == 1


def test_again_it_changes_nothing() -> None:
    brain = serving(feed(STREAM))
    for command, name in (("feed.delete", STREAM), ("model.delete", DIGITS)):
        brain.call(command, **name, actor="ann")
        before = brain.store.load(), told(brain)
        brain.call(command, **name, actor="bob")
        assert (brain.store.load(), told(brain)) == before


@pytest.mark.parametrize(
    ("command", "request_"),
    [
        ("apply", {"models": [{"name": "digits"}]}),
        ("apply", {"feeds": [feed(BATCH)]}),
        ("version.register", ARTIFACT | DIGITS | {"digest": "new"}),
        (
            "version.register",
            {"artifact_uri": "file:///1", "digest": "sha256-1", "engine": "onnx", "signature": SIGNATURE} | DIGITS,
        ),
        ("version.remove", DIGITS | {"version": 1}),
        ("model.scale", DIGITS | {"replicas": 2}),
        ("rollout.start", DIGITS | {"version": 1}),
        ("rollout.abort", DIGITS),
    ],
)
def test_what_is_on_its_way_out_is_not_changed(command: str, request_: dict[str, Any]) -> None:
    brain = serving()
    brain.call("model.delete", **DIGITS)
    before = brain.store.load()
    with pytest.raises(Conflict, match=r"it is being removed \(wait until `headrace status` shows it no longer"):
        brain.call(command, **request_)
    assert brain.store.load() == before


def test_applied_again_it_serves_again_and_numbers_go_on() -> None:
    brain = serving(feed(STREAM))
    brain.call("feed.delete", **STREAM)
    brain.call("model.delete", **DIGITS)
    brain.tick(6, each_s=RETIRE_GRACE_S)
    assert brain.store.load().models == {}
    brain.build(2)  # never two artifacts under one number: what was scored, audited and cached names it
    brain.apply(feeds=[feed(STREAM)])
    brain.tick(4)
    assert brain.controller.table.routes["digits"].stable == 2
    assert set(brain.streams.running) == {"scores"}
    brain.call("feed.delete", **STREAM)
    brain.call("model.delete", **DIGITS)
    brain.tick(6, each_s=RETIRE_GRACE_S)
    brain.apply()
    brain.build(3)


def test_a_model_that_never_served_is_gone_at_once() -> None:
    brain = Brain()
    brain.build(1)
    brain.call("model.delete", **DIGITS)
    brain.tick()
    assert brain.store.load().models == {}


def test_a_version_that_fails_to_start_is_no_hindrance() -> None:
    brain = serving()
    brain.fleet.doom("digits--v1", "no such operator")
    brain.fleet.vanish("digits--v1")
    brain.tick(4)
    assert brain.fleet.state()["digits--v1"].status is AppStatus.FAILED
    brain.call("model.delete", **DIGITS)
    brain.tick(6, each_s=RETIRE_GRACE_S)
    assert (brain.store.load().models, brain.fleet.state()) == ({}, {})


def test_artifacts_go_last_and_only_where_that_was_asked_for() -> None:
    brain, gone = serving(), list[str]()
    with_artifacts(brain, gone.append)
    brain.call("model.delete", **DIGITS)
    brain.tick(2)
    brain.call("model.delete", **DIGITS, artifacts=True)  # said later
    brain.tick(each_s=RETIRE_GRACE_S)
    assert (gone, set(brain.fleet.state())) == ([], {"digits--v1"})
    brain.tick(6)
    assert (gone, brain.store.load().models) == (["file:///artifacts/1"], {})
    kept = serving()
    with_artifacts(kept, gone.append)
    kept.call("model.delete", **DIGITS)
    kept.tick(6, each_s=RETIRE_GRACE_S)
    assert (len(gone), kept.store.load().models) == (1, {})


def test_an_artifact_that_another_model_serves_stays() -> None:
    brain, gone = serving(), list[str]()
    with_artifacts(brain, gone.append)
    brain.call("version.register", model="twin", **ARTIFACT)
    brain.call("model.delete", **DIGITS, artifacts=True)
    brain.tick(6, each_s=RETIRE_GRACE_S)
    assert (gone, set(brain.store.load().models)) == ([], {"twin"})


def test_another_models_artifact_stays_however_its_uri_is_written() -> None:
    brain, gone = serving(), list[str]()
    with_artifacts(brain, gone.append)
    brain.call("version.register", model="thief", **{**ARTIFACT, "artifact_uri": "file:///artifacts/2/../1"})
    brain.call("model.delete", model="thief", artifacts=True)
    brain.tick(6, each_s=RETIRE_GRACE_S)
    assert (gone, set(brain.store.load().models)) == ([], {"digits"})


def test_where_an_artifact_cant_be_removed_it_is_told_and_tried_again_later() -> None:
    brain, tries = serving(), list[float]()

    def remove(uri: str) -> None:
        tries.append(brain.clock.now_s)
        if len(tries) < 3:
            raise Unreachable("the store is away", where=uri, remedy="wait")

    with_artifacts(brain, remove)
    brain.call("model.delete", **DIGITS, artifacts=True)
    brain.tick(3, each_s=RETIRE_GRACE_S)
    brain.tick(4)
    assert len(tries) == 1
    removing = brain.call("model.show", **DIGITS)["removing"]
    assert "its artifacts can't be deleted: file:///artifacts/1: the store is away (wait); failed once" in removing
    brain.tick(60)
    assert brain.store.load().models == {}
    assert 5 <= tries[1] - tries[0] < 7
    assert 10 <= tries[2] - tries[1] < 12


@pytest.mark.parametrize(("command", "name"), [("model.delete", {"model": "none"}), ("feed.delete", {**STREAM, "name": "none"})])
def test_what_is_not_there_is_not_found(command: str, name: dict[str, Any]) -> None:
    with pytest.raises(NotFound, match="'none'"):
        serving().call(command, **name)


def test_a_mistake_of_ours_in_one_removal_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    brain = serving(feed(STREAM), feed(BATCH))
    real = cluster.decide.remove_feed

    def mistaken(state: Any, key: str, *rest: Any) -> Any:
        if key == "batch--nightly":
            raise ZeroDivisionError
        return real(state, key, *rest)

    monkeypatch.setattr(cluster.decide, "remove_feed", mistaken)
    brain.call("feed.delete", **BATCH)
    brain.call("feed.delete", **STREAM)
    brain.tick(2)
    assert set(brain.store.load().feeds) == {"batch--nightly"}
    assert "ZeroDivisionError" in brain.call("feed.show", **BATCH)["message"]


def test_a_bad_kind_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"feed\.delete: kind"):
        serving().call("feed.delete", kind="model", name="digits")
