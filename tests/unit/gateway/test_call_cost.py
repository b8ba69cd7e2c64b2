"""What a call costs by its rows is learnt from calls, and several replicas share what waits where rows are dear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import uvloop

from cluster.access.callers import VISITOR
from cluster.fleet.serving import Serving
from cluster.routing.routes import RouteTable
from cluster.signature import Datatype
from deployments.engines.datatypes import Array
from deployments.gateway.call_cost import CallCost
from deployments.gateway.dataplane import DataPlane, InferCall
from deployments.gateway.lanes import BatchLimits, CallsSeen
from deployments.gateway.protocol.request import InferRequest
from deployments.scoring.pieces import bearable_calls
from deployments.scoring.port import Scored
from tests.support.gateway_fakes import FakeScorer, table

GATHER_S = 0.01


def seen(cost_s: Callable[[int], float], *sizes: int) -> CallCost:
    cost = CallCost()
    for rows in sizes:
        cost.took(rows, cost_s(rows))
    return cost


def test_a_line_is_found_through_calls_of_two_sizes() -> None:
    assert seen(lambda rows: 0.1 + 0.05 * rows, 1, 8, 8, 1).line() == pytest.approx((0.1, 0.05))


def test_calls_of_one_size_tell_no_rows_cost_and_half_is_tried() -> None:
    assert seen(lambda _: 0.8, 8, 8, 8).line() == pytest.approx((0.4, 0.05))


def test_a_line_follows_what_changes() -> None:
    cost = seen(lambda rows: 0.01 * rows, *([1, 8] * 50))
    for rows in [1, 8] * 60:
        cost.took(rows, 0.1 * rows)
    assert cost.line() == pytest.approx((0, 0.1), abs=0.002)


@pytest.mark.parametrize("cost_s", [lambda rows: 1 / rows, lambda rows: 2 - rows / 10])
def test_nothing_is_below_zero(cost_s: Callable[[int], float]) -> None:
    fixed_s, row_s = seen(cost_s, 1, 8, 4).line()
    assert fixed_s > 0
    assert row_s == 0


def test_what_was_never_called_is_not_parted() -> None:
    assert CallCost().calls_worth(1000, GATHER_S) == 0


def test_dear_rows_are_worth_as_many_calls_as_there_are() -> None:
    assert seen(lambda rows: 0.1 * rows, 1, 32, 8).calls_worth(32, GATHER_S) >= 32


def test_rows_that_cost_nothing_of_their_own_stay_together() -> None:
    assert seen(lambda _: 0.05, 32, 16, 32).calls_worth(32, GATHER_S) == 0  # a GPU's


def test_quick_rows_stay_together() -> None:
    assert seen(lambda rows: 0.0002 + 0.00001 * rows, 1, 32, 64).calls_worth(512, GATHER_S) == 0


def test_no_call_has_less_work_of_its_own_than_half_of_what_a_call_costs() -> None:
    assert seen(lambda rows: 0.2 + 0.01 * rows, 1, 32).calls_worth(32, GATHER_S) == 3


class Sleeping(FakeScorer):
    """Each row takes 20 ms."""

    most = under_way = 0

    async def score(self, model: str, tensors: Mapping[str, Array], *more: object, **named: object) -> Scored:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.02 * len(next(iter(tensors.values()))))
        try:
            return await super().score(model, tensors, *more, **named)  # type: ignore[arg-type]
        finally:
            self.under_way -= 1


def of_replicas(replicas: int) -> tuple[Sleeping, DataPlane, Serving]:
    serving = Serving.model_validate({"scaling": {"mode": "manual", "replicas": replicas}})
    scorer = Sleeping(table(serving=serving))
    scorer.there = replicas
    return scorer, DataPlane(scorer, BatchLimits(patience_s=3600.0)), serving


async def callers(plane: DataPlane, many: int, times: int) -> None:
    one = InferRequest({"x": np.ones((1, 2), np.float32)}, {"x": Datatype.FP32})

    async def caller() -> None:
        for _ in range(times):
            await plane.infer(InferCall("pair", timeout_s=60.0), one, VISITOR)

    await asyncio.gather(*(caller() for _ in range(many)))


@pytest.mark.parametrize(("replicas", "least"), [(1, 1), (4, 4)])
def test_callers_who_come_back_together_are_parted_among_replicas(replicas: int, least: int) -> None:
    async def play() -> None:
        scorer, plane, serving = of_replicas(replicas)
        await callers(plane, 12, 6)
        assert sum(scorer.calls) == 72
        assert least <= scorer.most <= bearable_calls(serving)

    uvloop.run(play())


def test_no_call_takes_more_than_its_share_of_all_that_are_not_answered_yet() -> None:
    """Serve counts calls and not rows: what it sends behind a large one waits while other replicas are idle."""

    async def play() -> None:
        scorer, plane, _ = of_replicas(4)
        await callers(plane, 12, 3)
        scorer.gate.clear()
        before = len(scorer.calls)
        asked = []
        for many in range(1, 7):
            asked.append(asyncio.ensure_future(callers(plane, 1, 1)))
            while len(scorer.calls) < before + many:
                await asyncio.sleep(0.001)
        asked.append(asyncio.ensure_future(callers(plane, 20, 1)))
        while len(scorer.calls) < before + 8:
            await asyncio.sleep(0.001)
        assert scorer.calls[before : before + 6] == [1] * 6
        assert max(scorer.calls[before + 6 :]) <= 4  # 26 rows, and 4 replicas bear 8 calls
        scorer.gate.set()
        await asyncio.gather(*asked)

    uvloop.run(play())


def test_the_rest_of_what_is_parted_does_not_wait_for_a_look_that_was_meant_for_later() -> None:
    class Held(FakeScorer):
        """Each call waits until its own end is set."""

        def __init__(self, routes: RouteTable) -> None:
            super().__init__(routes)
            self.ends: list[asyncio.Event] = []

        async def score(self, model: str, tensors: Mapping[str, Array], *more: object, **named: object) -> Scored:
            end = asyncio.Event()
            self.ends.append(end)
            await end.wait()
            return await super().score(model, tensors, *more, **named)  # type: ignore[arg-type]

    serving = Serving.model_validate({"scaling": {"mode": "manual", "replicas": 4}})
    most = bearable_calls(serving)
    one = InferRequest({"x": np.ones((1, 2), np.float32)}, {"x": Datatype.FP32})

    async def play() -> None:
        scorer = Held(table(serving=serving))
        scorer.there = 4
        plane = DataPlane(scorer, BatchLimits(gather_s=0.001, patience_s=3600.0, crowd_apart_s=0.01))
        plane._batcher._seen["pair", None, False] = known = CallsSeen()
        known.cost = seen(lambda rows: 1.0 * rows, 1, 8)

        def ask() -> asyncio.Task[object]:
            return asyncio.create_task(plane.infer(InferCall("pair", timeout_s=3600.0), one, VISITOR))

        asked = []
        for calls in range(1, most + 1):
            asked.append(ask())
            while len(scorer.ends) < calls:
                await asyncio.sleep(0)
        asked += [ask() for _ in range(64)]  # a crowd, for which no call is free
        while len(plane._batcher._lanes) != 1 or (lane := next(iter(plane._batcher._lanes.values()))).queued_rows < 64:
            await asyncio.sleep(0)
        while lane.look_s < time.monotonic() + 3000:  # for when the first will have waited long
            await asyncio.sleep(0.001)
        for end in scorer.ends[:most]:
            end.set()
        async with asyncio.timeout(30):
            while len(scorer.ends) < 2 * most or lane.queued_rows:
                await asyncio.sleep(0.001)
        for end in scorer.ends:
            end.set()
        await asyncio.gather(*asked)
        assert sum(scorer.calls) == most + 64

    uvloop.run(play())


def test_a_request_that_is_scored_in_pieces_tells_no_rows_cost() -> None:
    async def play() -> CallCost:
        plane = DataPlane(FakeScorer(table(serving=Serving(max_batch_rows=4))), BatchLimits())
        for rows in (3, 9):
            request = InferRequest({"x": np.ones((rows, 2), np.float32)}, {"x": Datatype.FP32})
            await plane.infer(InferCall("pair", timeout_s=60.0), request, VISITOR)
        return plane._batcher._seen["pair", None, False].cost

    cost = uvloop.run(play())
    assert (cost.weight, cost.rows) == (1, 3)
