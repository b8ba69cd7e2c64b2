"""Scheduled batches: the controller over fakes, killed anywhere; and what a scheduled job does on its own."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.commands.feeds import FeedView
from cluster.commands.versions import ResolvedVersion
from cluster.errors import NoCapacity, Unreachable
from cluster.schedule.jobs import JobState
from cluster.watch.payloads import PayloadFiles, Payloads
from consumers.batch.schedule.job import find, run_fire
from consumers.batch.score.inline import inline_workforce
from consumers.batch.write.records import Pinned
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from tests.support.batch_parts import (
    digits_pin,
    engine_scorer,
    images,
    published,
    spec_of,
    stopping_after,
    write_dataset,
    write_file,
)
from tests.support.brain import Brain
from tests.unit.cluster.test_crash import Killed, Killer

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
HOUR = 3600.0
HOURLY = {"cron": "0 * * * *", "backoff_s": 10, "retries": 1}
KEPT = Payloads(parquet=PayloadFiles(path="/payloads"))
INLINE = inline_workforce(engine_scorer)


def nightly(brain: Brain, **schedule: Any) -> dict[str, Any]:
    feed = {"kind": "batch", "name": "nightly", "model": "digits", "spec": {}, "schedule": HOURLY | schedule}
    return brain.call("apply", models=[{"name": "digits"}], feeds=[feed])


@pytest.fixture
def brain() -> Brain:
    brain = Brain()
    brain.clock.now_s = NOON - 60
    nightly(brain)
    return brain


def shown(brain: Brain) -> dict[str, Any]:
    schedule: dict[str, Any] = brain.call("feed.show", kind="batch", name="nightly")["schedule"]
    return schedule


def states(brain: Brain) -> list[str]:
    return [fire["state"] for fire in shown(brain)["fires"]]


def reasons(brain: Brain) -> list[str]:
    return [fire["reason"] for fire in shown(brain)["fires"]]


def test_a_fire_is_submitted_followed_and_kept(brain: Brain) -> None:
    brain.tick(10)
    assert (brain.jobs.submitted, brain.jobs.asked) == ([], 0)
    assert shown(brain)["next_s"] == [NOON, NOON + HOUR, NOON + 2 * HOUR]
    brain.tick(each_s=60)
    (job,) = brain.jobs.submitted
    assert (job.job, job.batch, job.as_of) == ("sched-nightly-20261123T120000Z", "nightly", "2026-11-23")
    brain.tick(3)
    assert states(brain) == ["running"]
    brain.jobs.end(job.job, JobState.SUCCEEDED)
    brain.tick()
    assert states(brain) == ["succeeded"]
    assert len(brain.jobs.submitted) == 1
    events = brain.call("rollout.history", model="digits")["audit"]
    assert [event["event"] for event in events][-3:] == ["batch submitted", "batch running", "batch succeeded"]


def test_a_failure_is_told_and_tried_again_as_the_same_fire(brain: Brain) -> None:
    brain.tick(each_s=61)
    brain.jobs.end(brain.jobs.submitted[0].job, JobState.FAILED, "the disk is full")
    brain.tick(each_s=1)
    assert [(fire["state"], fire["reason"]) for fire in shown(brain)["fires"]] == [("waiting", "the disk is full")]
    brain.tick(each_s=11)
    first, second = brain.jobs.submitted
    assert second.fire == first.fire
    assert second.job == f"{first.job}-r1"


def test_while_paused_nothing_fires_and_nothing_is_missed(brain: Brain) -> None:
    brain.call("feed.pause", kind="batch", name="nightly")
    brain.tick(each_s=3 * HOUR)
    assert (states(brain), shown(brain)["next_s"]) == ([], [])
    brain.call("feed.resume", kind="batch", name="nightly")
    brain.tick()
    assert states(brain) == []
    brain.tick(each_s=HOUR)
    assert len(brain.jobs.submitted) == 1


def test_another_schedule_begins_now_and_keeps_the_history(brain: Brain) -> None:
    brain.tick(each_s=61)
    assert nightly(brain, cron="30 * * * *", missed="run_all")["changes"][1]["action"] == "updated"
    brain.tick()
    assert len(states(brain)) == 1
    assert nightly(brain, cron="30 * * * *", missed="run_all")["changes"][1]["action"] == "unchanged"


def test_jobs_that_cannot_be_asked_hold_nothing_else_up(brain: Brain) -> None:
    brain.jobs.away = True
    brain.build(1)
    brain.tick(4, each_s=30)
    assert brain.controller.table.routes["digits"].stable == 1
    assert reasons(brain) == ["not submitted yet, tried again: fake jobs: the jobs are away (bring them back)"]
    brain.jobs.away = False
    brain.tick(2)
    assert reasons(brain) == [""]
    assert [job.job for job in brain.jobs.submitted] == ["sched-nightly-20261123T120000Z"]


@settings(max_examples=60)
@given(st.lists(st.integers(1, 40), max_size=6), st.sampled_from(["run_all", "run_latest"]))
def test_killed_anywhere_every_fire_is_submitted_once(kills: list[int], missed: str) -> None:
    brain = Brain()
    brain.clock.now_s = NOON - 60
    nightly(brain, missed=missed, overlap="queue")
    for passed in [*kills, 10**9]:
        brain.revive(Killer(passed))
        for _ in range(12):
            try:
                brain.tick(each_s=600)
            except Killed:
                break
            for job in brain.jobs.submitted:
                brain.jobs.end(job.job, JobState.SUCCEEDED)
    brain.tick(4, each_s=1)
    jobs = [job.job for job in brain.jobs.submitted]
    assert len(jobs) == len(set(jobs))
    # A process that dies is looked after within a tick here, so nothing counts as missed for longer than the grace.
    if missed == "run_all":
        due = int((brain.clock.now_s - NOON) // HOUR) + 1
        assert len(jobs) == due


@pytest.fixture
def pin(tmp_path: Path) -> Pinned:
    return digits_pin(tmp_path)


DAY = date(2026, 11, 23)


def test_the_tries_of_a_fire_make_one_run(tmp_path: Path, pin: Pinned) -> None:
    total = write_dataset(tmp_path / "in", files=2)
    spec = spec_of(tmp_path / "in", tmp_path / "out", output={"mode": "append"})
    with pytest.raises(NoCapacity):
        run_fire("digits", spec, pin, stopping_after(INLINE, 2), as_of=DAY, fire="sched-digits-1")
    other = digits_pin(tmp_path, version=2)  # stable has moved on meanwhile
    manifest = run_fire("digits", spec, other, INLINE, as_of=DAY, fire="sched-digits-1")
    assert manifest is not None
    assert manifest.version == 1
    again = run_fire("digits", spec, other, INLINE, as_of=DAY, fire="sched-digits-1")
    assert again == manifest
    assert published(tmp_path / "out").num_rows == total
    assert run_fire("digits", spec, other, INLINE, as_of=DAY, fire="sched-digits-2") != manifest
    assert published(tmp_path / "out").num_rows == 2 * total


def test_a_fire_gives_up_what_an_earlier_one_left(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in", files=1)
    spec = spec_of(tmp_path / "in", tmp_path / "out")
    with pytest.raises(NoCapacity):
        run_fire("digits", spec, pin, stopping_after(INLINE, 1), as_of=DAY, fire="sched-digits-1")
    manifest = run_fire("digits", spec, pin, INLINE, as_of=DAY, fire="sched-digits-2")
    assert manifest is not None
    assert [run.run_id for run in RunHistory(locate(spec.output.path)).all()] == [manifest.run_id]


def test_nothing_new_is_no_failure(tmp_path: Path, pin: Pinned) -> None:
    write_file(tmp_path / "in/a.parquet", range(100), images(100))
    spec = spec_of(tmp_path / "in", tmp_path / "out", input={"only_new": True}, output={"mode": "append"})
    assert run_fire("digits", spec, pin, INLINE, as_of=DAY, fire="f1") is not None
    assert run_fire("digits", spec, pin, INLINE, as_of=DAY, fire="f2") is None


@pytest.mark.anyio
async def test_a_job_waits_for_a_controller_that_is_restarted(tmp_path: Path, pin: Pinned) -> None:
    spec = spec_of(tmp_path / "in", tmp_path / "out")
    away = 2
    asked: list[tuple[str, dict[str, Any]]] = []

    async def call(command: str, payload: dict[str, Any]) -> dict[str, Any]:
        nonlocal away
        if away:
            away -= 1
            raise Unreachable("being restarted")
        asked.append((command, payload))
        if command == "feed.show":
            document = spec.model_dump(mode="json")
            view = FeedView(
                kind="batch", name="b", model="digits", wanted="running", status="", replicas=0, message="", spec=document
            )
            return view.model_dump(mode="json")
        version = ResolvedVersion(
            payloads=KEPT,
            model="digits",
            version=1,
            artifact_uri=pin.artifact_uri,
            digest=pin.digest,
            engine="onnx",
            signature=pin.signature,
            created_s=0,
        )
        return version.model_dump(mode="json")

    assert await find("b", call, pause_s=0) == (spec, pin.model_copy(update={"payloads": KEPT}))
    assert [command for command, _ in asked] == ["feed.show", "version.resolve"]


def test_a_record_that_nobody_can_read_ends_no_later_fire(tmp_path: Path, pin: Pinned, caplog: pytest.LogCaptureFixture) -> None:
    total = write_dataset(tmp_path / "in", files=1)
    spec = spec_of(tmp_path / "in", tmp_path / "out", output={"mode": "append"})
    for number in (1, 2):
        run_fire("digits", spec, pin, INLINE, as_of=DAY, fire=f"sched-digits-{number}")
    runs = RunHistory(locate(spec.output.path))
    first, second = (Path(run.place.path) / "run.json" for run in runs.all())
    first.write_bytes(b"{")
    second.write_bytes(orjson.dumps(orjson.loads(second.read_bytes()) | {"of_a_later_release": 1}))
    found = runs.of_fire("sched-digits-2")
    assert found is not None
    assert found.place.path == str(second.parent)
    assert runs.of_fire("sched-digits-9") is None
    assert "its record is no JSON" in caplog.text
    assert run_fire("digits", spec, pin, INLINE, as_of=DAY, fire="sched-digits-2") is not None  # which was made already
    assert run_fire("digits", spec, pin, INLINE, as_of=DAY, fire="sched-digits-3") is not None
    assert published(tmp_path / "out").num_rows == 3 * total
