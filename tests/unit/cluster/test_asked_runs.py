"""Runs of a batch that persons ask for: begun, resumed and cancelled over fakes, on what was seen."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cluster.access.callers import Caller, Role, grant_of
from cluster.errors import BadInput, Conflict, Forbidden
from cluster.schedule.jobs import JobState
from tests.support.brain import Brain

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
HOUR = 3600.0
NAME: dict[str, Any] = {"name": "nightly"}


@pytest.fixture
def brain() -> Brain:
    brain = Brain()
    brain.clock.now_s = NOON - 60
    return brain


def apply(brain: Brain, schedule: dict[str, Any] | None = None) -> None:
    feed = {"kind": "batch", "name": "nightly", "model": "digits", "spec": {}, "schedule": schedule}
    brain.call("apply", models=[{"name": "digits"}], feeds=[feed])


def shown(brain: Brain) -> dict[str, Any]:
    return brain.call("feed.show", kind="batch", name="nightly")


def by_hand(brain: Brain) -> list[tuple[str, str]]:
    return [(fire["state"], fire["by"]) for fire in shown(brain)["by_hand"]]


def seen(brain: Brain) -> dict[str, Any]:
    last = brain.call("glance.show")["feeds"][0]["last"]
    return {"job": last["job"], "state": last["state"]} if last else {"job": "", "state": ""}


def test_one_without_a_schedule_runs_when_somebody_asks_and_is_tried_once(brain: Brain) -> None:
    apply(brain)
    brain.call("batch.run", **NAME, actor="ann", seen=seen(brain), as_of="2026-11-20")
    brain.tick()
    (job,) = brain.jobs.submitted
    assert (job.job, job.fire, job.as_of) == ("hand-nightly-20261123T115900Z", "hand-nightly-20261123T115900Z", "2026-11-20")
    assert (job.by_hand, job.unfinished, job.resumes) == (True, "", False)
    brain.tick()
    assert by_hand(brain) == [("running", "ann")]
    with pytest.raises(Conflict, match="is running"):
        brain.call("batch.run", **NAME, actor="bob", seen=seen(brain))
    brain.jobs.end(job.job, JobState.FAILED, "the disk is full")
    brain.tick(3, each_s=HOUR)
    assert by_hand(brain) == [("failed", "ann")]
    assert len(brain.jobs.submitted) == 1
    assert brain.call("glance.show")["feeds"][0]["wrong"][0]["words"] == "its last run failed: the disk is full"
    audit = brain.call("rollout.history", model="digits")["audit"]
    told = [(event["event"], event["actor"]) for event in audit]
    assert told[-4:] == [
        ("batch.run", "ann"),
        ("batch submitted", "controller"),
        ("batch running", "controller"),
        ("batch failed", "controller"),
    ]


def test_a_cancelled_run_is_stopped_and_the_next_waits_for_its_end(brain: Brain) -> None:
    apply(brain)
    brain.call("batch.run", **NAME, actor="ann")
    stood = seen(brain)
    brain.tick(3)
    # It has begun to run since: it is still the same run.
    brain.call("batch.cancel", **NAME, actor="bob", seen=stood)
    brain.call("batch.run", **NAME, actor="ann", gives_up="r1")
    brain.tick()
    assert brain.jobs.state([brain.jobs.submitted[0].job])[brain.jobs.submitted[0].job].message == "stopped"
    assert len(brain.jobs.submitted) == 1
    brain.tick()
    second = brain.jobs.submitted[1]
    assert second.job != brain.jobs.submitted[0].job
    assert (second.unfinished, second.resumes) == ("r1", False)
    assert by_hand(brain) == [("cancelled", "ann"), ("submitted", "ann")]
    assert shown(brain)["by_hand"][0]["reason"] == "cancelled by bob"


def test_what_was_decided_on_another_state_is_not_done(brain: Brain) -> None:
    apply(brain)
    stood = seen(brain)
    brain.call("batch.run", **NAME, actor="ann", seen=stood)
    brain.tick(2)
    running = seen(brain)
    brain.jobs.end(running["job"], JobState.SUCCEEDED)
    brain.tick()
    for command in ("batch.run", "batch.cancel"):
        with pytest.raises(Conflict, match="it has moved on"):
            brain.call(command, **NAME, actor="bob", seen=stood)
    with pytest.raises(Conflict, match=r"is succeeded now, and .* is running when it was seen"):
        brain.call("batch.cancel", **NAME, actor="bob", seen=running)
    with pytest.raises(Conflict, match="runs nothing of it"):
        brain.call("batch.cancel", **NAME, actor="bob")
    with pytest.raises(BadInput):
        brain.call("batch.resume", **NAME, run="../r1")
    brain.call("batch.resume", **NAME, actor="bob", run="r1", seen=seen(brain))
    brain.tick()
    assert (brain.jobs.submitted[-1].unfinished, brain.jobs.submitted[-1].resumes) == ("r1", True)


def test_the_schedule_goes_on_beside_what_persons_ask_for(brain: Brain) -> None:
    apply(brain, {"cron": "0 * * * *", "keep": 2, "retries": 0})
    brain.clock.now_s = NOON + 1
    brain.call("batch.run", **NAME, actor="ann")  # after noon's fire, and before anybody looked
    brain.tick()
    fires = shown(brain)["schedule"]["fires"]
    assert [(fire["at_s"], fire["state"]) for fire in fires] == [(NOON, "skipped")]
    brain.call("batch.cancel", **NAME, actor="ann")
    brain.tick(2)
    for _ in range(5):
        brain.call("batch.run", **NAME, actor="ann")
        brain.tick()
        brain.jobs.end(brain.jobs.submitted[-1].job, JobState.SUCCEEDED)
        brain.tick()
    # As many of each are kept: without the schedule's last, it would make up for all that was.
    assert [fire["at_s"] for fire in shown(brain)["schedule"]["fires"]] == [NOON]
    assert by_hand(brain) == [("succeeded", "ann")] * 2
    brain.tick(each_s=HOUR)
    assert [fire["at_s"] for fire in shown(brain)["schedule"]["fires"]] == [NOON, NOON + HOUR]
    apply(brain)
    assert (shown(brain)["schedule"], by_hand(brain)) == (None, [("succeeded", "ann")] * 2)


def test_it_takes_the_role_and_a_pause_is_of_what_was_seen(brain: Brain) -> None:
    apply(brain, {"cron": "0 * * * *"})
    viewer = Caller("viewer", grants=(grant_of((Role.VIEW,), "digits"),))
    for command in ("batch.run", "batch.cancel"):
        with pytest.raises(Forbidden, match="needs the role operate"):
            brain.controller.call(command, NAME, viewer)
    brain.call("feed.pause", kind="batch", name="nightly", seen="running")
    with pytest.raises(Conflict, match="it is paused now, and was seen running"):
        brain.call("feed.pause", kind="batch", name="nightly", seen="running")
    brain.call("batch.run", **NAME, actor="ann")  # its schedule rests, and it does not
    brain.tick()
    assert by_hand(brain) == [("submitted", "ann")]


def test_replicas_are_set_by_who_has_seen_how_many_there_are(brain: Brain) -> None:
    brain.apply(serving={"scaling": {"mode": "manual", "replicas": 2}})
    brain.build(1)
    brain.tick(6)
    with pytest.raises(Conflict, match="2 replicas are wanted now, and 1 were when it was seen"):
        brain.call("model.scale", model="digits", replicas=3, seen=1)
    brain.call("model.scale", model="digits", replicas=3, seen=2)
    with pytest.raises(Conflict, match="3 replicas are wanted now"):
        brain.call("model.scale", model="digits", replicas=4, seen=2)
