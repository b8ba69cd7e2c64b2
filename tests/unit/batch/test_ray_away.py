"""A Ray that does not answer: what Ray Data leaves behind fails no run, and every other fault is told in our words."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.exceptions import RpcError

from cluster.errors import Unreachable
from cluster.foreign import kind_and_words, trace_of
from consumers.batch import ray_inside
from consumers.batch.ray_inside import LeftActors
from consumers.batch.score import pool
from consumers.batch.score.pool import count_workers
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
