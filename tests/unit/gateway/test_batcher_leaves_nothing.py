"""What a request leaves behind goes with its last reference: the collector, which looks seldom, finds nothing of it."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import uvloop

from cluster.access.callers import VISITOR
from cluster.errors import BadInput, HeadraceError, NoCapacity
from cluster.signature import Datatype
from deployments.gateway.dataplane import DataPlane, InferCall
from deployments.gateway.protocol.request import InferRequest
from tests.support.gateway_fakes import PATIENT, FakeScorer, table

Scene = Callable[[FakeScorer, DataPlane], Awaitable[None]]


async def ask(plane: DataPlane, callers: int, timeout_s: float | None = None) -> None:
    """So many ask at once; none is told of the others' errors."""
    one = InferRequest({"x": np.ones((1, 2), np.float32)}, {"x": Datatype.FP32})
    await asyncio.gather(
        *(plane.infer(InferCall("pair", timeout_s=timeout_s), one, VISITOR) for _ in range(callers)), return_exceptions=True
    )


async def answered(_: FakeScorer, plane: DataPlane) -> None:
    await ask(plane, 1)


async def answered_together(scorer: FakeScorer, plane: DataPlane) -> None:
    await ask(plane, 3)
    assert scorer.calls[-1] == 3


async def failed_row(scorer: FakeScorer, plane: DataPlane) -> None:
    scorer.row_error = lambda _: BadInput("no such row")
    await ask(plane, 3)


def refused(kind: type[HeadraceError], callers: int) -> Scene:
    async def scene(scorer: FakeScorer, plane: DataPlane) -> None:
        def refuse(_: object) -> HeadraceError:
            raise kind("the whole call")

        scorer.row_error = refuse
        await ask(plane, callers)
        assert callers in scorer.calls

    return scene


async def late(scorer: FakeScorer, plane: DataPlane) -> None:
    scorer.gate.clear()
    calls, ended = len(scorer.calls), scorer.ended
    while len(scorer.calls) == calls:  # where the machine is busy, the time may be over before the call begins
        await ask(plane, 3, timeout_s=0.01)
    while scorer.ended == ended:
        await asyncio.sleep(0)


async def given_up(scorer: FakeScorer, plane: DataPlane) -> None:
    scorer.gate.clear()
    calls, ended = len(scorer.calls), scorer.ended
    callers = asyncio.create_task(ask(plane, 3))
    while len(scorer.calls) == calls:
        await asyncio.sleep(0)
    callers.cancel()
    await asyncio.gather(callers, return_exceptions=True)
    while scorer.ended == ended:
        await asyncio.sleep(0)


SCENES: dict[str, Scene] = {
    "answered": answered,
    "answered together": answered_together,
    "failed row": failed_row,
    "refused": refused(BadInput, 1),
    "refused together, then alone": refused(BadInput, 3),
    "no capacity": refused(NoCapacity, 3),
    "late": late,
    "given up": given_up,
}


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_nothing_is_left_to_the_collector(scene: Scene) -> None:
    async def play() -> list[object]:
        scorer = FakeScorer(table())
        plane = DataPlane(scorer, PATIENT)
        await scene(scorer, plane)  # what is made once, by imports and caches
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        await scene(scorer, plane)
        await asyncio.sleep(0)  # callbacks of the last that ended
        gc.collect()
        return list(gc.garbage)

    try:
        left = uvloop.run(play())
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not left, Counter(type(each).__name__ for each in left)
