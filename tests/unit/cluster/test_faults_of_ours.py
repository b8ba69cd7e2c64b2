"""A mistake of ours in what is decided of one model, stream or batch stops that one alone, and is told."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from rich.console import Console

import cluster.commands.rollouts
import cluster.decide
import cluster.watch.standing
from cluster.commands.models import ModelView
from cluster.errors import in_words
from cluster.fleet.seeks import SEEK_MOST_S
from cluster.rollout.record import Rollout
from cluster.versions import Version
from cluster.watch.catalogue import STABLE_VERSION
from deployments.serving.fake_fleet import FakeFleet
from headrace.cli.screens.status import shown as shown_status
from headrace.local.run_state import Addresses
from headrace.local.status import Overview
from tests.support.brain import SIGNATURE, SURE, Brain


def both_serve(brain: Brain) -> None:
    for name in ("digits", "other"):
        about = {"artifact_uri": "file:///a", "digest": f"{name}-1", "engine": "onnx", "signature": SIGNATURE}
        brain.call("version.register", model=name, **about)
    brain.call("apply", models=[{"name": name, "rollout": SURE} for name in ("digits", "other")])
    brain.tick(4)
    assert set(brain.controller.table.routes) == {"digits", "other"}


def build_second(brain: Brain) -> None:
    for name in ("digits", "other"):
        about = {"artifact_uri": "file:///b", "digest": f"{name}-2", "engine": "onnx", "signature": SIGNATURE}
        brain.call("version.register", model=name, **about)


def mistaken(real: Any) -> Any:
    def judge(rollout: Rollout, evidence: Any) -> Any:
        if rollout.model == "digits":
            raise ZeroDivisionError("float division by zero")
        return real(rollout, evidence)

    return judge


def shown(brain: Brain) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in brain.call("status")["models"]}


def test_a_model_whose_evidence_we_cannot_judge_stays_as_it_is_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    brain = Brain()
    both_serve(brain)
    before = brain.controller.table.routes["digits"]
    build_second(brain)
    brain.tick(4)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, logger="cluster.controller"):
        patch.setattr(cluster.decide, "judge", mistaken(cluster.decide.judge))
        patch.setattr(cluster.commands.rollouts, "judge", mistaken(cluster.commands.rollouts.judge))
        brain.call("rollout.promote", model="other")
        brain.tick(4)
        assert brain.controller.table.routes["other"].stable == 2
        seen = shown(brain)
        assert "a fault of Headrace itself, ZeroDivisionError: float division by zero" in seen["digits"]["fault"]
        assert (seen["digits"]["stable"], seen["other"]["fault"]) == (1, "")
        assert brain.call("model.show", model="digits")["fault"] == seen["digits"]["fault"]
        logged = [record for record in caplog.records if "a mistake of ours stops digits" in record.message]
        assert len(logged) == 1  # not at every tick
        assert logged[0].exc_info is not None
        assert brain.controller.table.routes["digits"].targets[1] == before.targets[1]
        brain.fleet.vanish("digits--v1")
        brain.tick(4)
        assert "digits--v1" in brain.fleet.state()  # stable comes back all the same
    brain.tick(2)
    assert shown(brain)["digits"]["fault"] == ""
    assert shown(brain)["digits"]["rollout"]["state"] == "canary"


def test_a_route_that_we_cannot_build_stays_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    brain = Brain()
    both_serve(brain)
    real = cluster.decide.build_route
    last = brain.controller.table.routes["digits"]

    def build(state: Any, model: Any, *rest: Any) -> Any:
        if model.name == "digits":
            raise KeyError("no such step")
        return real(state, model, *rest)

    monkeypatch.setattr(cluster.decide, "build_route", build)
    build_second(brain)
    brain.tick(4)
    assert brain.controller.table.routes["digits"] == last
    assert brain.controller.table.routes["other"].candidate == 2
    assert "KeyError" in shown(brain)["digits"]["fault"]


def test_a_schedule_that_we_cannot_follow_stops_no_other_feed_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    brain = Brain()
    brain.serve_first()
    real = cluster.decide.fire_batch

    def fire(state: Any, key: str, *rest: Any) -> Any:
        if key == "batch--nightly":
            raise OverflowError("date value out of range")
        return real(state, key, *rest)

    monkeypatch.setattr(cluster.decide, "fire_batch", fire)
    nightly = {"kind": "batch", "name": "nightly", "model": "digits", "spec": {}, "schedule": {"cron": "* * * * *"}}
    hourly = {**nightly, "name": "hourly"}
    stream = {"kind": "stream", "name": "scores", "model": "digits", "spec": {}}
    brain.call("apply", feeds=[nightly, hourly, stream])
    brain.tick(3, each_s=60)
    assert set(brain.streams.running) == {"scores"}
    feeds = {feed["name"]: feed for feed in brain.call("status")["feeds"]}
    assert "OverflowError: date value out of range" in feeds["nightly"]["message"]
    assert feeds["nightly"]["schedule"]["fires"] == []
    assert (feeds["hourly"]["message"], len(feeds["hourly"]["schedule"]["fires"])) == ("", 3)


def test_a_mistake_in_an_action_is_told_of_its_model() -> None:
    class Mistaken(FakeFleet):
        def deploy(self, version: Version, *rest: Any) -> None:
            if version.id == type(version.id)("digits", 2):
                raise TypeError("an option too many")
            super().deploy(version, *rest)

    brain = Brain(fleet=Mistaken())
    both_serve(brain)
    build_second(brain)
    brain.tick(4)
    assert "TypeError: an option too many" in shown(brain)["digits"]["fault"]
    assert brain.controller.table.routes["other"].candidate == 2


def test_the_status_screen_says_it_once() -> None:
    brain = Brain()
    brain.serve_first()
    (model,) = (ModelView.model_validate(one) for one in brain.call("status")["models"])
    faulty = model.model_copy(update={"fault": in_words(ZeroDivisionError("float division by zero"))})
    console = Console(width=200)
    for view, lines in ((faulty, 1), (model, 0)):
        with console.capture() as capture:
            console.print(shown_status(Overview(addresses=Addresses(), nodes=(), table=1, tick_s=1.0, models=(view,), feeds=())))
        told = [
            line for line in capture.get().splitlines() if line.startswith("digits: a fault of Headrace itself, ZeroDivision")
        ]
        assert len(told) == lines


def test_a_model_that_we_cannot_measure_hides_no_other(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    brain = Brain()
    both_serve(brain)
    build_second(brain)
    brain.tick(4)
    monkeypatch.setattr(cluster.watch.standing, "judge", mistaken(cluster.watch.standing.judge))
    with caplog.at_level(logging.ERROR, logger="cluster.watch.standing"):
        brain.tick(50)  # points of the history too
        seen = {(name, *labels): value for name, labels, value in brain.call("metrics.list")["values"]}
    assert seen[STABLE_VERSION.name, "other"] == 1
    assert (STABLE_VERSION.name, "digits") not in seen
    assert {line["name"] for line in brain.call("metrics.history")["lines"]} == {"other"}
    assert "what is known of model digits is not measured" in caplog.text


def test_a_seek_that_nobody_ended_is_told_once_the_stream_can_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    brain = Brain()
    brain.serve_first()
    brain.call("apply", feeds=[{"kind": "stream", "name": "scores", "model": "digits", "spec": {}}])
    seen = brain.call("stream.show", name="scores")["seen"]
    brain.call("stream.seek", name="scores", to="latest", seen=seen, skips={}, repeats={})

    def mistaken(*_: Any) -> None:
        raise KeyError("no such look")

    with monkeypatch.context() as patch:
        patch.setattr(cluster.decide, "note_failed_stream", mistaken)
        brain.tick(2, each_s=SEEK_MOST_S)
        assert brain.store.load().feeds["stream--scores"].seek_s is not None
    brain.tick(2)
    assert brain.store.load().feeds["stream--scores"].seek_s is None
    assert [event.event for event in brain.store.audit("digits")].count("stream.seek failed") == 1
