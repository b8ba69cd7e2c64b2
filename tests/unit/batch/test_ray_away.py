"""A Ray that does not answer: what Ray Data leaves behind fails no run, and every other fault is told in our words."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from ray.exceptions import RpcError

from cluster.errors import Conflict, Unreachable
from cluster.foreign import kind_and_words, trace_of
from consumers.batch import ray_inside
from consumers.batch.ray_inside import LeftActors, OwnJobClient
from consumers.batch.schedule.jobs import RayJobs
from consumers.batch.score import pool
from consumers.batch.score.pool import count_workers
from deployments.artifacts.places import locate
from tests.support.batch_parts import spec_of

LATE = "RPC error: Deadline Exceeded"


def test_no_run_fails_because_the_actors_that_ray_data_leaves_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def late() -> frozenset[tuple[str, str]]:
        asked.append("asked")
        if len(asked) == 1:
            return frozenset()
        raise RpcError(LATE)

    monkeypatch.setattr(ray_inside, "_there", late)
    left = LeftActors(lambda: False)
    left.note()
    left.end()
    assert len(asked) == 2, "those that came with the run are no longer known: none is ended"


def test_what_ray_raises_beside_the_workers_says_that_the_run_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    def late() -> dict[str, float]:
        raise RpcError(LATE)

    monkeypatch.setattr(pool.ray, "cluster_resources", late)
    with pytest.raises(Unreachable, match=f"Ray failed the run: RpcError: {LATE}") as told:
        count_workers(spec_of(Path("in"), Path("out"), model="digits"))
    assert "resume" in (told.value.remedy or "")


def test_which_call_ray_did_not_answer_is_told() -> None:
    assert kind_and_words(RpcError(LATE)) == f"RpcError: {LATE}"
    assert trace_of(RpcError(LATE)) == f"ray.exceptions.RpcError: {LATE}\n"


class FailingClient:
    """Of the dashboard: every question ends so."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get_job_info(self, job: str) -> None:
        raise self.error


def jobs_where(error: Exception) -> RayJobs:
    jobs = RayJobs()
    jobs._client = cast(OwnJobClient, FailingClient(error))
    return jobs


def test_only_the_dashboards_own_word_makes_a_job_unknown() -> None:
    unknown = RuntimeError("Request failed with status code 404: Job sched-nightly-7 does not exist.")
    assert jobs_where(unknown).state(["sched-nightly-7"]) == {}
    failed = RuntimeError("Request failed with status code 500: no agent for sched-nightly-20261130T0404.")
    with pytest.raises(Unreachable, match="status code 500"):
        jobs_where(failed).state(["sched-nightly-20261130T0404"])


def test_an_error_without_a_word_is_told_by_its_kind() -> None:
    with pytest.raises(Unreachable, match="Ray's jobs can't be asked: ConnectionResetError"):
        jobs_where(ConnectionResetError()).state(["sched-nightly-7"])


def test_an_output_that_is_held_on_the_cluster_is_waited_for_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    owners, ended = iter([None, None, "owner", None]), list[object]()
    monkeypatch.setattr(pool, "_new_owner", lambda _key: next(owners))
    monkeypatch.setattr(pool, "_LOOK_S", 0.0)
    monkeypatch.setattr(pool.ray, "kill", ended.append)
    with pool.actor_lock(locate(str(tmp_path)), "b", wait=True):
        assert ended == []
    assert ended == ["owner"]
    with pytest.raises(Conflict, match="under way"), pool.actor_lock(locate(str(tmp_path)), "b", wait=False):
        pass
