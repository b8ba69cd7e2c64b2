"""What failed to start is tried again, with back-off, for as long as it is wanted; status says when."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from cluster.errors import BadInput
from cluster.fleet.retry import FIRST_S, LONGEST_S, Retry, after_look, backoff_s, is_due, may_start
from cluster.fleet.serving import Serving
from cluster.ports import AppState, AppStatus
from cluster.versions import Version
from deployments.serving.fake_fleet import FakeFleet
from tests.support.brain import SURE, Brain

AWAY = "no such folder: file:///artifacts/1"
FAILED = AppState("digits--v1", AppStatus.FAILED, 0, 1, AWAY)
STARTING = AppState("digits--v1", AppStatus.STARTING, 0, 1)
READY = AppState("digits--v1", AppStatus.READY, 1, 1)
STOPPING = AppState("digits--v1", AppStatus.STOPPING, 0, 1)


def test_each_wait_is_twice_the_one_before_and_none_longer_than_the_longest() -> None:
    waits = [backoff_s(failures) for failures in range(1, 2000)]
    assert waits[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert max(waits) == waits[-1] == LONGEST_S
    assert all(before <= after for before, after in itertools.pairwise(waits))


def test_a_failure_waits_is_due_is_tried_and_fails_or_recovers() -> None:
    first = after_look(None, FAILED, 100.0)
    assert first == Retry(1, AWAY, 100 + FIRST_S)
    assert not may_start(first)
    assert after_look(first, FAILED, 104.0) is first  # the same failure, seen again
    assert not is_due(first, 104.9)
    assert is_due(first, 105.0)
    assert after_look(first, STOPPING, 106.0) is first
    trying = after_look(first, None, 107.0)
    assert trying == Retry(1, AWAY, None)
    assert may_start(trying)
    assert not is_due(trying, 1e9)
    assert after_look(trying, STARTING, 108.0) is trying
    assert after_look(trying, None, 108.0) is trying
    assert after_look(trying, FAILED, 110.0) == Retry(2, AWAY, 110 + 2 * FIRST_S)
    assert after_look(trying, READY, 110.0) is None
    assert after_look(trying, replace(READY, status=AppStatus.UNHEALTHY), 110.0) is None  # it did start


@pytest.mark.parametrize("app", [None, STARTING, STOPPING, READY])
def test_what_has_not_failed_is_not_remembered(app: AppState | None) -> None:
    assert after_look(None, app, 1.0) is None


def test_what_is_gone_waits_for_its_time_and_what_is_well_again_does_not() -> None:
    first = Retry(3, AWAY, 100.0)
    assert after_look(first, None, 99.0) is first
    assert after_look(first, READY, 99.0) is None


@pytest.fixture
def failed() -> Brain:
    """Version 1 was stable, the cluster was lost, and the store of artifacts is away as it comes back."""
    brain = Brain()
    brain.serve_first()
    brain.fleet.vanish("digits--v1")
    brain.fleet.doom("digits--v1", AWAY)
    brain.revive()
    brain.tick(3)
    return brain


def app_of(brain: Brain) -> dict[str, Any]:
    app: dict[str, Any] = brain.call("model.show", model="digits")["apps"][0]
    return app


def test_a_stable_version_that_failed_at_a_restart_serves_again_once_its_artifact_is_back(failed: Brain) -> None:
    app = app_of(failed)
    assert app["status"] == "failed"
    assert app["next_try_s"] == pytest.approx(failed.clock.now_s + FIRST_S, abs=1.5)
    assert app["message"].startswith(f"{AWAY}; failed once, is tried again in ")
    failed.tick(240, each_s=0.5)  # two minutes
    tries = failed.fleet.deployed.count("digits--v1")
    assert 5 <= tries <= 7  # the first, that of the restart, and after 5, 10, 20, 40 s and what each takes
    failed.fleet.mend("digits--v1")
    failed.tick(200, each_s=0.5)
    assert app_of(failed) == {
        "app": "digits--v1",
        "status": "ready",
        "replicas": 1,
        "target_replicas": 1,
        "message": "",
        "next_try_s": None,
    }
    assert failed.controller.table.routes["digits"].stable == 1
    assert failed.controller.settled
    audit = failed.call("rollout.history", model="digits")["audit"]
    told = [(event["event"], event["actor"], event["detail"]) for event in audit if event["event"] in ("failed", "started again")]
    assert told[0] == ("failed", "controller", {"version": 1, "reason": AWAY})
    assert [event for event, _, _ in told] == ["failed", "started again"]  # not one for each try


def test_the_wait_is_kept_by_the_next_controller(failed: Brain) -> None:
    before = app_of(failed)["next_try_s"]
    failed.revive()
    failed.tick(2)
    assert app_of(failed)["next_try_s"] == before
    assert failed.fleet.retired == []
    failed.clock.now_s = before
    failed.tick()
    assert failed.fleet.retired == ["digits--v1"]


def test_a_new_serving_section_is_tried_at_once(failed: Brain) -> None:
    failed.tick(60)
    assert app_of(failed)["next_try_s"] > failed.clock.now_s + 2
    failed.fleet.mend("digits--v1")
    failed.apply(serving={"threads": 2})
    failed.tick(6)
    assert app_of(failed)["status"] == "ready"


def test_one_that_is_no_longer_wanted_is_let_go(failed: Brain) -> None:
    failed.build(2)
    failed.tick(4)
    failed.call("rollout.promote", model="digits")
    failed.tick(each_s=SURE["keep_warm_s"] + 1)
    failed.tick(4, each_s=11)
    tries = failed.fleet.deployed.count("digits--v1")
    failed.tick(50, each_s=30)
    assert failed.fleet.deployed.count("digits--v1") == tries
    assert set(failed.fleet.state()) == {"digits--v2"}
    assert failed.store.load().models["digits"].retries == {}


def test_a_version_kept_warm_is_tried_again_with_the_same_waits() -> None:
    brain = Brain()
    brain.serve_first({**SURE, "keep_warm_s": 10_000})
    brain.build(2)
    brain.tick(4)
    brain.call("rollout.promote", model="digits")
    brain.fleet.vanish("digits--v1")
    brain.fleet.doom("digits--v1", AWAY)
    brain.tick(240)
    assert 5 <= brain.fleet.deployed.count("digits--v1") <= 7
    brain.fleet.mend("digits--v1")
    brain.tick(200)
    assert set(brain.controller.table.routes["digits"].targets) == {1, 2}


def test_a_stable_version_that_the_fleet_refuses_is_tried_with_back_off_and_told() -> None:
    class Refusing(FakeFleet):
        refuses, asked = False, 0

        def deploy(self, version: Version, serving: Serving, replicas: int) -> None:
            self.asked += 1
            if self.refuses:
                raise BadInput("no node is called so", where=str(version.id), remedy="correct it")
            super().deploy(version, serving, replicas)

    fleet = Refusing()
    brain = Brain(fleet=fleet)
    brain.serve_first()
    fleet.vanish("digits--v1")
    fleet.refuses, fleet.asked = True, 0
    brain.tick(120)  # a minute
    assert 4 <= fleet.asked <= 5
    app = app_of(brain)
    assert (app["status"], app["replicas"], app["target_replicas"]) == ("failed", 0, 0)
    assert "no node is called so" in app["message"]
    assert "is tried again in" in app["message"]
    fleet.refuses = False
    brain.tick(120)
    assert app_of(brain)["status"] == "ready"


def test_a_candidate_that_fails_while_stable_is_away_too_is_tried_again_and_then_judged() -> None:
    """The store of artifacts is away as the cluster comes back in the middle of a rollout: no version is to blame."""
    brain = Brain()
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    for app in ("digits--v1", "digits--v2"):
        brain.fleet.vanish(app)
        brain.fleet.doom(app, AWAY)
    brain.tick(60)
    assert brain.rollout()["state"] == "canary"
    brain.fleet.mend("digits--v1")
    brain.tick(180)
    assert brain.rollout()["state"] == "rolled_back"  # stable starts, and it does not
    assert AWAY in brain.rollout()["reason"]


def test_both_come_back_and_the_rollout_goes_on() -> None:
    brain = Brain()
    brain.serve_first()
    brain.build(2)
    brain.tick(4)
    for app in ("digits--v1", "digits--v2"):
        brain.fleet.vanish(app)
        brain.fleet.doom(app, AWAY)
    brain.tick(60)
    for app in ("digits--v1", "digits--v2"):
        brain.fleet.mend(app)
    brain.tick(60)
    assert (brain.rollout()["state"], brain.rollout()["reason"]) == ("canary", "")
    assert set(brain.controller.table.routes["digits"].targets) == {1, 2}


STREAM = {"kind": "stream", "name": "scores", "model": "digits", "spec": {"topic": "in"}}


def stream_of(brain: Brain) -> dict[str, Any]:
    return brain.call("feed.show", kind="stream", name="scores")


def test_a_stream_that_failed_to_start_is_tried_again_until_it_does() -> None:
    brain = Brain()
    brain.serve_first()
    brain.streams.broken["scores"] = "the registry does not answer"
    brain.call("apply", feeds=[STREAM])
    brain.tick(3)
    seen = stream_of(brain)
    assert seen["status"] == "failed"
    assert seen["message"].startswith("the registry does not answer; failed once, is tried again in ")
    brain.tick(120)
    assert 4 <= brain.streams.started.count("scores") <= 5  # in a minute
    brain.streams.broken.clear()
    brain.tick(100)
    assert (stream_of(brain)["status"], stream_of(brain)["message"]) == ("ready", "")
    audit = brain.call("rollout.history", model="digits")["audit"]
    told = [(event["event"], event["detail"]["name"]) for event in audit if event["event"] in ("failed", "started again")]
    assert told == [("failed", "scores"), ("started again", "scores")]


def test_a_stream_whose_document_is_refused_is_told_and_not_asked_for_at_every_tick() -> None:
    brain = Brain()
    brain.serve_first()
    brain.streams.refused["scores"] = BadInput("there is no codec yaml", where="stream scores", remedy="name another")
    brain.call("apply", feeds=[STREAM])
    brain.tick(120)
    assert 4 <= brain.streams.started.count("scores") <= 5
    assert stream_of(brain)["status"] == "failed"
    assert "there is no codec yaml" in stream_of(brain)["message"]
    brain.streams.refused.clear()
    brain.call("apply", feeds=[STREAM | {"spec": {"topic": "other"}}])
    brain.tick(2)
    assert (stream_of(brain)["status"], stream_of(brain)["message"]) == ("ready", "")


def test_a_stream_that_is_paused_is_not_tried_and_starts_at_once_when_it_is_resumed() -> None:
    brain = Brain()
    brain.serve_first()
    brain.streams.broken["scores"] = "the registry does not answer"
    brain.call("apply", feeds=[STREAM])
    brain.tick(60)
    brain.call("feed.pause", kind="stream", name="scores")
    brain.tick(2)
    tries = brain.streams.started.count("scores")
    brain.tick(100)
    assert brain.streams.started.count("scores") == tries
    brain.streams.broken.clear()
    brain.call("feed.resume", kind="stream", name="scores")
    brain.tick(2)
    assert stream_of(brain)["status"] == "ready"
