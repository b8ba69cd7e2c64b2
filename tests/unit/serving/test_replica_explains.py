"""Explanations of a real engine in what its users leave over: whole, cut by the deadline, refused where many wait, given up."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import BadInput, NoCapacity
from deployments.artifacts.background import read_background
from deployments.artifacts.manifest import Manifest
from deployments.engines.datatypes import Array
from deployments.engines.load import load_engine
from deployments.engines.port import Engine
from deployments.explain.explaining import explain_rows
from deployments.explain.form import ExplainMethod, ExplainOptions, OutOfTime
from deployments.serving.explaining import (
    CALLS_MOST,
    FLOOR_TIMES,
    PIECE_ROWS,
    PIECE_S,
    TRY_AFTER,
    USERS_S,
    ExplainWork,
    PiecePace,
    ReplicaExplainer,
)
from deployments.serving.turns import EngineTurns
from tests.support.models import INPUT, OUTPUT, mlp_artifact, rows

pytestmark = pytest.mark.anyio
FEW = ExplainOptions(method=ExplainMethod.SHAPLEY, evaluations=4000)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Manifest]:
    return mlp_artifact(tmp_path_factory.mktemp("explained"))


@pytest.fixture(scope="module")
def engine(artifact: tuple[str, str, Manifest]) -> Engine:
    return load_engine(Path(artifact[0]))


@pytest.fixture
async def explainer(artifact: tuple[str, str, Manifest], engine: Engine) -> ReplicaExplainer:
    return ReplicaExplainer(engine, EngineTurns(1), Path(artifact[0]), lambda work: work())


async def test_a_row_gets_the_numbers_that_the_engine_alone_gives(
    explainer: ReplicaExplainer, engine: Engine, artifact: tuple[str, str, Manifest]
) -> None:
    image, before = rows(2, seed=3), sys.getswitchinterval()
    found = await explainer.explain({INPUT: image}, FEW, 60.0)
    assert isinstance(found, list), found
    alone = explain_rows(engine.score, {INPUT: image}, engine.signature, read_background(Path(artifact[0])), FEW)
    for one, want in zip(found, alone, strict=True):
        np.testing.assert_allclose(one.attributions[INPUT], want.attributions[INPUT], atol=1e-5)
        assert (one.label, one.evaluations) == (want.label, want.evaluations)
    assert sys.getswitchinterval() == before
    refused = await explainer.explain({INPUT: image}, ExplainOptions(label=99), 60.0)
    assert isinstance(refused, BadInput)
    assert "class" in str(refused)


async def test_while_users_want_the_engine_an_explanation_is_cut_or_told_to_come_back(
    explainer: ReplicaExplainer, engine: Engine
) -> None:
    turns, gate = explainer._turns, threading.Event()
    asked = asyncio.create_task(explainer.explain({INPUT: rows(1)}, FEW, 0.3))
    busy = asyncio.create_task(turns.of_user(partial(gate.wait, 30)))
    found = await asked
    gate.set()
    await busy
    if isinstance(found, list):  # it was quicker than the user, so it had begun
        assert found[0].too_rough
    else:
        assert isinstance(found, NoCapacity)
        assert "more time" in found.remedy
    short = await explainer.explain({INPUT: rows(40)}, ExplainOptions(method=ExplainMethod.SHAPLEY, evaluations=200_000), 1.0)
    assert isinstance(short, list), short
    assert any(one.too_rough and "deadline" in one.why for one in short)
    assert all(np.isfinite(one.completeness_error) for one in short)


async def test_no_more_wait_than_can_be_borne_and_who_leaves_is_not_worked_for(explainer: ReplicaExplainer) -> None:
    turns, gate = explainer._turns, threading.Event()
    busy = asyncio.create_task(turns.of_user(partial(gate.wait, 30)))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(explainer.explain({INPUT: rows(1)}, FEW, 60.0)) for _ in range(CALLS_MOST)]
    await asyncio.sleep(0)
    refused = await explainer.explain({INPUT: rows(1)}, FEW, 60.0)
    assert isinstance(refused, NoCapacity)
    assert "retry" in refused.remedy
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    began_s = time.monotonic()
    gate.set()
    await busy
    found = await explainer.explain({INPUT: rows(1)}, ExplainOptions(method=ExplainMethod.OCCLUSION, evaluations=800), 60.0)
    assert isinstance(found, list)
    assert time.monotonic() - began_s < 20


@pytest.mark.parametrize("users", [True, False], ids=["users call", "nobody calls"])
async def test_while_users_call_an_explanation_rests_as_long_as_it_works(users: bool, engine: Engine) -> None:
    rests: list[float] = []

    class Waits(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            rests.append(timeout)
            return False

    turns, busy_s = EngineTurns(1), [0.0]

    def guarded(work: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        began_s = time.monotonic()
        try:
            return work()
        finally:
            busy_s[0] += time.monotonic() - began_s

    turns.progress_s = time.monotonic() + (3600 if users else -2 * USERS_S)
    work = ExplainWork(engine, turns, guarded, PiecePace(), time.monotonic() + 60, Waits())
    work.begin()
    images = {INPUT: rows(8)}
    for _ in range(2):
        found = await asyncio.to_thread(work.score, images)
    np.testing.assert_allclose(found[OUTPUT], engine.score(images)[OUTPUT], atol=1e-5)
    if not users:
        assert rests == []
        return
    last_s = busy_s[0]
    await asyncio.to_thread(work.score, {INPUT: rows(1)})  # only what was worked before it can have been rested for
    assert sum(rests) >= last_s


@pytest.mark.parametrize(
    ("call_s", "row_s", "rows"),
    [(0.0, 1e-5, range(64, PIECE_ROWS + 1)), (0.0, 0.005, range(1, 3)), (0.02, 1e-5, range(64, PIECE_ROWS + 1))],
    ids=["quick", "slow by row", "slow by call"],
)
def test_pieces_are_as_long_as_a_user_may_wait_or_as_any_call_is(call_s: float, row_s: float, rows: range) -> None:
    pace, asked = PiecePace(), []
    for _ in range(200):
        asked.append(pace.rows)
        pace.took(pace.rows, call_s + row_s * pace.rows)
    assert np.median(asked) in rows
    slow = [count for count in asked if call_s + row_s * count > max(2 * PIECE_S, FLOOR_TIMES * (call_s + row_s))]
    assert len(slow) <= 200 / TRY_AFTER + 1


async def test_whom_nobody_waits_for_takes_the_engine_no_more(engine: Engine) -> None:
    turns, asked = EngineTurns(1), list[int]()

    def guarded(work: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        asked.append(1)
        return work()

    work = ExplainWork(engine, turns, guarded, PiecePace(), time.monotonic() + 60, threading.Event())
    work.begin()
    await asyncio.to_thread(work.score, {INPUT: rows(1)})
    work.given_up.set()
    with pytest.raises(OutOfTime):
        await asyncio.to_thread(work.score, {INPUT: rows(1)})
    assert len(asked) == 1
