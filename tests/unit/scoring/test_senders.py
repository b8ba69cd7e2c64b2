"""Whose rows a call has, as runs, and what is counted of each: by the scorer, and through the gateway for several callers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.access.callers import EVERYTHING, VISITOR, Caller
from cluster.errors import BadInput, EngineFailure, NoCapacity
from cluster.fleet.serving import Serving
from cluster.rollout.evidence import Counts
from cluster.routing.routes import Route, Target
from cluster.signature import Datatype
from deployments.engines.datatypes import Array
from deployments.gateway.dataplane import DataPlane, InferCall
from deployments.gateway.lanes import BatchLimits
from deployments.gateway.protocol.request import InferRequest
from deployments.scoring.rows import Answer
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.senders import Senders, joined_senders, shares
from tests.support.models import INPUT, OUTPUT
from tests.support.routing import TableControl, route, target

ANN, MALLORY = "key ann", "key mallory"
NOWHERE = ("memory:", "0" * 64, None)
FAILS, UNLIKE, MISSED, WRONG = 1.0, 2.0, 3.0, 4.0  # what a row's first number asks of the candidate; WRONG of both


class Versions:
    """A transport whose candidate, version 2, does with each row what its first number says."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def keep(self, wanted: Mapping[str, tuple[Target, Serving]]) -> None:
        """Nothing to keep."""

    def ready(self, target: Target) -> bool:
        return True

    async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        asked = tensors[INPUT][:, 0]
        self.calls.append((target.version, len(asked)))
        output = np.zeros((len(asked), 10), np.float32)
        output[:, 0] = 1
        failed: dict[int, BadInput | EngineFailure] = {int(row): BadInput("wrong") for row in np.flatnonzero(asked == WRONG)}
        if target.version == 2:
            if (asked == MISSED).any():
                raise NoCapacity("no replica")
            failed |= {int(row): EngineFailure("no") for row in np.flatnonzero(asked == FAILS)}
            output[asked == UNLIKE, 1] = 2
        return Answer({OUTPUT: output}, dict(failed))

    async def close(self) -> None:
        """Nothing to close."""


def split(**more: float | str) -> Route:
    settings = {"candidate": 2, "stage": "r1.1", "salt": 7, **more}
    return route(target(1, NOWHERE), target(2, NOWHERE), serving=Serving(max_batch_rows=400), **settings)


@asynccontextmanager
async def scoring(control: TableControl) -> AsyncIterator[tuple[RoutedScorer, Versions]]:
    versions = Versions()
    scorer = RoutedScorer(control, versions, versions, versions, seed=0)
    await scorer.start()
    try:
        yield scorer, versions
    finally:
        await scorer.close()


def image(*first: float) -> dict[str, Array]:
    rows = np.zeros((len(first), 784), np.float32)
    rows[:, 0] = first
    return {INPUT: rows}


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(1, 5)), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_runs_say_what_row_by_row_would(runs: list[tuple[str, int]], seed: int) -> None:
    names = [name for name, rows in runs for _ in range(rows)]
    draw = np.random.default_rng(seed)
    chosen = np.flatnonzero(draw.random(len(names)) < 0.6)
    failed = np.flatnonzero(draw.random(len(chosen)) < 0.5).tolist()
    blameless = failed[::2]
    senders = Senders(tuple(name for name, _ in runs), tuple(np.cumsum([rows for _, rows in runs]).tolist()))
    left = [names[row] for place, row in enumerate(chosen.tolist()) if place not in blameless]
    lost = Counter(names[chosen[place]] for place in failed if place not in blameless)
    told = shares(senders, chosen, failed, blameless)
    assert {name: of for name, of in told.items() if of != (0, 0)} == {
        name: (rows, lost[name]) for name, rows in Counter(left).items() if name
    }
    twice = joined_senders([(senders.of(chosen), len(chosen)), (None, 3), (senders, len(names))])
    assert twice is not None
    assert twice.ends[-1] == len(chosen) + 3 + len(names)
    assert sum(rows for rows, _ in twice.shares().values()) == sum(bool(names[row]) for row in chosen) + sum(map(bool, names))


def test_where_nobody_is_told_apart_nothing_is() -> None:
    assert shares(None, np.arange(3), [1]) == {}
    assert joined_senders([(None, 3), (None, 2)]) is None


@pytest.mark.anyio
@pytest.mark.parametrize("fallback", [True, False], ids=["fallback", "no-fallback"])
async def test_rows_that_only_the_candidate_fails_are_their_senders(fallback: bool) -> None:
    """Wherever they lie in the call, and also where their neighbours are wrong in themselves."""
    control = TableControl(split(weight=10_000, fallback=fallback))
    async with scoring(control) as (scorer, _):
        senders = Senders((ANN, MALLORY, "", ANN), (2, 5, 6, 8))
        await scorer.score("digits", image(0, WRONG, FAILS, 0, FAILS, FAILS, 0, 0), senders=senders)
    assert control.counts(2) == Counts(rows=7, errors=3)  # how long the others took is not known
    assert control.counts(2, ANN) == Counts(rows=3)
    assert control.counts(2, MALLORY) == Counts(rows=3, errors=2)


@pytest.mark.anyio
async def test_a_split_call_is_told_apart_by_versions_too() -> None:
    """The route may have changed since the gateway dealt out the keys."""
    control = TableControl(split(weight=5000))
    keys = [f"key {i}".encode() for i in range(200)]
    async with scoring(control) as (scorer, _):
        senders = Senders((ANN, MALLORY), (50, 200))
        scored = await scorer.score("digits", image(*[0] * 200), keys, donated=True, senders=senders)
    anns, theirs = scored.versions[:50], scored.versions[50:]
    for version in (1, 2):
        assert control.counts(version, ANN) == Counts(rows=int((anns == version).sum()), calls=1)
        assert control.counts(version, MALLORY) == Counts(rows=int((theirs == version).sum()), calls=1)
        assert control.counts(version).calls == 1


@pytest.mark.anyio
async def test_a_slow_call_is_charged_to_everybody_in_it_and_once_in_all() -> None:
    control = TableControl(split(weight=10_000, slow_ms=0.0))
    async with scoring(control) as (scorer, _):
        await scorer.score("digits", image(0, 0, 0), senders=Senders((ANN, MALLORY, ANN), (1, 2, 3)))
        await scorer.score("digits", image(0), senders=Senders((ANN,), (1,)))
    assert control.counts(2) == Counts(rows=4, calls=2, slow=2)
    assert control.counts(2, ANN) == Counts(rows=3, calls=2, slow=2)
    assert control.counts(2, MALLORY) == Counts(rows=1, calls=1, slow=1)


@pytest.mark.anyio
async def test_missed_calls_are_told_apart() -> None:
    control = TableControl(split(weight=10_000))
    async with scoring(control) as (scorer, _):
        await scorer.score("digits", image(0, MISSED, WRONG), senders=Senders((ANN, MALLORY), (1, 3)))
    assert [control.counts(2, name) for name in ("", ANN, MALLORY)] == [Counts(missed=2), Counts(missed=1), Counts(missed=1)]


@pytest.mark.anyio
async def test_shadowed_rows_are_still_their_senders_when_they_were_gathered() -> None:
    control = TableControl(split(shadow=10_000))
    async with scoring(control) as (scorer, versions):
        await scorer.score("digits", image(UNLIKE, 0, FAILS), senders=Senders((MALLORY, ANN, MALLORY), (1, 2, 3)))
        await scorer.score("digits", image(UNLIKE))
        await scorer.score("digits", image(0, UNLIKE), senders=Senders((ANN,), (2,)))
        while control.counts(2).rows == 0:
            await scorer._push.flush()
            await asyncio.sleep(0.01)
    assert versions.calls[-1] == (2, 6)
    assert control.counts(2) == Counts(rows=6, errors=1, compared=5, disagreed=3)
    assert control.counts(2, MALLORY) == Counts(rows=2, errors=1, compared=1, disagreed=1)
    assert control.counts(2, ANN) == Counts(rows=3, compared=3, disagreed=1)
    assert control.counts(1, ANN) == Counts(rows=3, calls=2)


def named(name: str) -> Caller:
    return Caller(name, EVERYTHING)


async def ask(plane: DataPlane, callers: Sequence[tuple[Caller, float]], version: str | None = None) -> None:
    await asyncio.gather(
        *(
            plane.infer(InferCall("digits", version), InferRequest(image(first, 0), {INPUT: Datatype.FP32}), caller)
            for caller, first in callers
        )
    )


@pytest.mark.anyio
async def test_through_the_gateway_requests_of_several_in_one_call_are_counted_of_each() -> None:
    control = TableControl(split(weight=10_000))
    async with scoring(control) as (scorer, versions):
        plane = DataPlane(scorer, BatchLimits(candidate_apart_s=0.0, candidate_crowd_apart_s=0.0))
        await ask(plane, [(named(ANN), 0), (VISITOR, FAILS), (named(MALLORY), FAILS)] * 5)
    assert len([call for call in versions.calls if call[0] == 2]) < 15
    assert (control.counts(2).rows, control.counts(2).errors) == (30, 10)
    assert (control.counts(2, ANN).rows, control.counts(2, ANN).errors) == (10, 0)
    assert (control.counts(2, MALLORY).rows, control.counts(2, MALLORY).errors) == (10, 5)
    told = {key.caller for batch in control.batches.values() for key in batch.counts}
    assert told == {"", ANN, MALLORY}


@pytest.mark.anyio
async def test_without_a_rollout_and_of_a_pinned_version_nobody_is_counted() -> None:
    control = TableControl(route(target(1, NOWHERE), serving=Serving(max_batch_rows=400)))
    async with scoring(control) as (scorer, versions):
        plane = DataPlane(scorer, BatchLimits())
        await ask(plane, [(named(ANN), 0)] * 5)
        control.publish(split(weight=10_000))
        while scorer.table.routes["digits"].candidate is None:
            await asyncio.sleep(0.01)
        await ask(plane, [(named(ANN), 0)] * 5, version="2")
    assert versions.calls
    assert control.batches == {}
