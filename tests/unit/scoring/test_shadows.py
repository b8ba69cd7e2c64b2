"""Rows that wait to be scored in shadow: gathered in order, never more than a call takes, never more than memory allows."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from cluster.errors import EngineFailure
from deployments.scoring.rows import Answer
from deployments.scoring.shadow import shadows
from deployments.scoring.shadow.shadows import Shadowed, Shadows
from tests.support.models import mlp_artifact
from tests.support.routing import route, target

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Shadowed:
    known = target(2, mlp_artifact(tmp_path_factory.mktemp("a")))
    return Shadowed(route(known), known, {"x": np.zeros((1, 1))}, Answer({"y": np.zeros((1, 1))}))


def made(like: Shadowed, values: list[int], *, width: int = 1, failed: tuple[int, ...] = ()) -> Shadowed:
    column = np.repeat(np.array(values, np.float64)[:, np.newaxis], width, axis=1)
    stable = Answer({"y": column.copy()}, {row: EngineFailure("no") for row in failed})
    return Shadowed(like.route, like.candidate, {"x": column}, stable)


async def scored(*given: Shadowed) -> list[Shadowed]:
    """What came to be scored, call by call."""
    calls: list[Shadowed] = []

    async def score(shadowed: Shadowed) -> None:
        calls.append(shadowed)

    waiting = Shadows(score)
    for each in given:
        waiting.add(each)
    assert waiting.task is not None
    await waiting.task
    return calls


async def test_calls_that_came_together_go_together_in_order(routed: Shadowed) -> None:
    (call,) = await scored(made(routed, [1, 2], failed=(1,)), made(routed, [3]), made(routed, [4, 5], failed=(0,)))
    assert call.tensors["x"][:, 0].tolist() == [1, 2, 3, 4, 5]
    assert call.stable.outputs["y"][:, 0].tolist() == [1, 2, 3, 4, 5]
    assert sorted(call.stable.failed) == [1, 3]


async def test_other_shapes_and_other_routes_go_apart(routed: Shadowed) -> None:
    wide = made(routed, [3], width=2)
    elsewhere = Shadowed(route(routed.candidate), routed.candidate, {"x": np.full((1, 1), 5.0)}, Answer({"y": np.zeros((1, 1))}))
    calls = await scored(made(routed, [1]), made(routed, [2]), wide, made(routed, [4]), elsewhere)
    assert [call.tensors["x"][:, 0].tolist() for call in calls] == [[1, 2], [3], [4], [5]]


async def test_no_call_is_larger_than_the_model_takes_unless_it_came_so(routed: Shadowed) -> None:
    most = routed.route.serving.max_batch_rows
    calls = await scored(*(made(routed, [0] * rows) for rows in (most - 1, 1, 1, most + 5, 2)))
    assert [call.rows for call in calls] == [most, 1, most + 5, 2]


async def test_there_is_no_room_while_too_much_waits(routed: Shadowed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "WAITING_BYTES_AT_MOST", 100)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def score(_: Shadowed) -> None:
        begun.set()
        await go_on.wait()

    waiting = Shadows(score)
    waiting.add(made(routed, [1]))
    await begun.wait()
    assert waiting.room
    waiting.add(made(routed, [1] * 10))
    assert not waiting.room
    go_on.set()
    assert waiting.task is not None
    await waiting.task
    assert waiting.room
