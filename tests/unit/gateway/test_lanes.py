"""Whom a lane asks for, and when it is let go: callers come with any form of tensors, and leave whenever they like."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cluster.errors import BadInput, HeadraceError
from deployments.gateway.dataplane import DataPlane
from tests.support.gateway_fakes import PATIENT, FakeScorer, table
from tests.unit.gateway.test_batcher_leaves_nothing import SCENES, Scene, ask

pytestmark = pytest.mark.anyio


def refuse(_: object) -> HeadraceError | None:
    raise BadInput("the whole call")


async def under_way(scorer: FakeScorer, calls: int) -> None:
    while len(scorer.calls) < calls:
        await asyncio.sleep(0)


async def no_lane_left(plane: DataPlane) -> None:
    async with asyncio.timeout(10):
        while plane._batcher._lanes:
            await asyncio.sleep(0)


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
async def test_a_lane_goes_with_its_last_request_however_that_ended(scene: Scene) -> None:
    scorer = FakeScorer(table())
    plane = DataPlane(scorer, PATIENT)
    await scene(scorer, plane)
    await no_lane_left(plane)


@pytest.mark.parametrize("leaves", [lambda caller: caller.cancel(), lambda _: None], ids=["hangs up", "is late"])
async def test_a_lane_in_whose_queue_nobody_waits_any_more_goes_with_its_calls(
    leaves: Callable[[asyncio.Task[None]], object],
) -> None:
    scorer = FakeScorer(table())
    plane = DataPlane(scorer, PATIENT)
    scorer.gate.clear()
    answered = []
    for calls in (1, 2):  # as many as are under way at a time
        answered.append(asyncio.create_task(ask(plane, 1)))
        await under_way(scorer, calls)
    waits = asyncio.create_task(ask(plane, 1, timeout_s=0.01))
    await asyncio.sleep(0)
    leaves(waits)
    await asyncio.gather(waits, return_exceptions=True)
    scorer.gate.set()
    await asyncio.gather(*answered)
    await no_lane_left(plane)
    assert scorer.calls == [1, 1]


async def test_of_a_refused_call_only_those_who_still_wait_are_asked_for_again() -> None:
    scorer = FakeScorer(table())
    plane = DataPlane(scorer, PATIENT)
    scorer.gate.clear()
    gone, *others = [asyncio.create_task(ask(plane, 1)) for _ in range(3)]
    await under_way(scorer, 1)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    scorer.row_error = refuse
    scorer.gate.set()
    await asyncio.gather(*others)
    assert scorer.calls == [3, 1, 1]
