"""Recorded requests are put to a candidate before it gets any traffic; what they show ends the rollout or lets it on."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import BadArtifact, Conflict, HeadraceError, NotFound, Unreachable
from cluster.rollout.preflight import Preflight, PreflightResult, objection
from cluster.schedule.jobs import TRY_AGAIN, JobState, SubmitPreflight
from consumers.payload_replay import preflight as program
from tests.support.brain import SURE, Brain

PLAN: dict[str, Any] = {**SURE, "preflight": {"payloads": "/payloads", "min_rows": 10}}


def warming(plan: dict[str, Any] | None = None) -> Brain:
    """Version 2 is a candidate whose replicas are ready."""
    brain = Brain()
    brain.serve_first(plan or PLAN)
    assert not brain.jobs.submitted
    brain.build(2)
    brain.tick(5)
    return brain


def told(brain: Brain, same: int, different: int = 0, failed: int = 0, rollout: int = 2) -> None:
    counts = {"same": same, "different": different, "failed": failed}
    brain.call("rollout.preflight", model="digits", rollout=rollout, p99_ms=2.0, **counts)
    brain.tick()


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ((100, 0, 0), ""),
        ((95, 5, 0), ""),
        ((9, 0, 0), "shows nothing: 9 answered rows"),
        ((94, 6, 0), "6 % answered differently"),
        ((99, 0, 1), "1 % failed"),
        ((0, 0, 0), "shows nothing"),
    ],
)
def test_what_ends_a_rollout(counts: tuple[int, int, int], why: str) -> None:
    found = objection(Preflight(payloads="p", min_rows=10), PreflightResult(*counts, 1.0))
    assert why in found
    assert bool(found) == bool(why)


def test_without_it_there_is_no_traffic_and_with_it_there_is() -> None:
    brain = warming()
    assert brain.rollout()["state"] == "warming"
    assert brain.rollout()["preflight"] == "under way"
    assert brain.controller.table.routes["digits"].candidate is None
    (job,) = brain.jobs.submitted
    assert isinstance(job, SubmitPreflight)
    assert (job.model, job.version, job.rollout) == ("digits", 2, 2)
    assert Preflight.model_validate_json(job.asked) == Preflight(payloads="/payloads", min_rows=10)
    told(brain, 100)
    assert brain.rollout()["state"] == "canary"
    assert brain.rollout()["preflight"] == "100 recorded rows: 0 % answered differently, 0 % failed, p99 2 ms"
    brain.jobs.end(job.job, JobState.SUCCEEDED)
    brain.tick(5)
    assert brain.rollout()["state"] == "canary"
    assert len(brain.jobs.submitted) == 1


def test_a_bad_one_never_has_any() -> None:
    brain = warming()
    told(brain, 50, different=50)
    ended = brain.rollout()
    assert (ended["state"], ended["step"]) == ("rolled_back", 0)
    assert "50 % answered differently" in ended["reason"]


def test_a_bad_one_is_taken_back_though_a_person_holds_it() -> None:
    brain = warming()
    brain.call("rollout.pause", model="digits")
    brain.tick()
    told(brain, 100)
    assert brain.rollout()["state"] == "paused"
    told(brain, 50, different=50)
    assert brain.rollout()["state"] == "rolled_back"


@pytest.mark.parametrize(("state", "message"), [(JobState.FAILED, "no Parquet file is there"), (JobState.SUCCEEDED, "")])
def test_a_job_that_ends_without_telling_is_no_evidence(state: JobState, message: str) -> None:
    brain = warming()
    brain.jobs.end(brain.jobs.submitted[0].job, state, message)
    brain.tick()
    assert brain.rollout()["state"] == "rolled_back"
    assert (message or "without a word") in brain.rollout()["reason"]


def test_it_outlives_the_controller_and_the_cluster() -> None:
    brain = warming()
    brain.revive()
    brain.tick(3)
    assert len(brain.jobs.submitted) == 1
    brain.jobs.forget()
    brain.tick(3)
    assert [one.job for one in brain.jobs.submitted] == [brain.jobs.submitted[0].job] * 2
    brain.jobs.away = True
    told(brain, 100)
    brain.revive()
    brain.jobs.away = False
    brain.tick(2)
    assert brain.rollout()["state"] == "canary"


def test_it_may_not_take_for_ever() -> None:
    brain = warming()
    brain.tick(3, each_s=50)
    assert brain.rollout()["state"] == "rolled_back"
    assert "its preflight not over" in brain.rollout()["reason"]


def test_the_way_back_does_not_wait_for_it() -> None:
    brain = warming()
    told(brain, 100)
    brain.call("rollout.promote", model="digits")
    brain.tick()
    brain.call("rollout.start", model="digits", version=1, plan="instant")
    brain.tick(3)
    assert brain.controller.table.routes["digits"].stable == 1
    assert len(brain.jobs.submitted) == 1


def test_what_comes_too_late_is_refused() -> None:
    brain = warming()
    with pytest.raises(Conflict, match="rollout 7 is not under way"):
        told(brain, 100, rollout=7)
    brain.call("rollout.abort", model="digits")
    with pytest.raises(Conflict):
        told(brain, 100)


def test_a_plan_without_it_needs_no_jobs() -> None:
    brain = warming(SURE)
    assert brain.rollout()["state"] == "canary"
    assert brain.rollout()["preflight"] == ""
    assert not brain.jobs.asked
    with pytest.raises(Conflict, match="asks for none"):
        told(brain, 100)


@pytest.mark.parametrize(
    ("failure", "status"),
    [(Unreachable("the store is away"), TRY_AGAIN), (NotFound("no file is there"), TRY_AGAIN), (BadArtifact("damaged"), 1)],
)
def test_its_job_says_by_its_status_whether_another_try_may_help(
    failure: HeadraceError, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fails(*_: Any) -> None:
        raise failure

    monkeypatch.setattr("ray.init", lambda **_: None)
    monkeypatch.setattr(program, "preflight", fails)
    monkeypatch.setattr(program, "log_to_stderr", lambda **_: None)
    asked = Preflight(payloads="p").model_dump_json()
    assert program.main(["digits", "--version", "2", "--rollout", "2", "--asked", asked, "--ray", "local:1"]) == status
    assert capsys.readouterr().err == f"{failure}\n"
