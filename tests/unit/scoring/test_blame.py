"""A failure is evidence where it is the version's fault, whatever scores: canary, shadow, embedded, remote, stream, batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError

from cluster.errors import EngineFailure, NoCapacity
from cluster.fleet.serving import Serving, TransportKind
from cluster.rollout.evidence import Counts
from cluster.routing.routes import Route, Target
from consumers.batch.score.remote_rows import RemoteScorer
from deployments.engines.datatypes import Array
from deployments.engines.port import Engine
from deployments.scoring.port import Late
from deployments.scoring.rows import Answer
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from deployments.transport.engine_process import EngineGone
from deployments.transport.remote import RemoteTransport
from deployments.transport.transports import EmbeddedTransport
from tests.support.models import INPUT, OUTPUT, rows
from tests.support.routing import TableControl, route, target

NOWHERE = ("nowhere", "0" * 64, None)
TARGETS = target(1, NOWHERE), target(2, NOWHERE)
REMOTE = Serving(max_batch_rows=400)


def answered(tensors: Mapping[str, Array]) -> Answer:
    return Answer({OUTPUT: np.repeat(tensors[INPUT][:, :1], 10, axis=1)})


class Candidate:
    """A transport whose stable version answers, and whose candidate does what is said."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure

    def keep(self, wanted: Mapping[str, tuple[Target, Serving]]) -> None:
        """Nothing to keep."""

    def ready(self, target: Target) -> bool:
        return True

    async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
        if target.version == 2 and self.failure is not None:
            raise self.failure
        return answered(tensors)

    async def close(self) -> None:
        """Nothing to close."""


def split(**more: Any) -> TableControl:
    return TableControl(routed(**more))


def routed(**more: Any) -> Route:
    return replace(route(*TARGETS, candidate=2, weight=10_000, stage="r1.1", serving=REMOTE), **more)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("failure", "counted"),
    [
        (NoCapacity("the queue is full"), Counts(missed=40)),
        (EngineGone("killed"), Counts(missed=40)),
        (Late("too slow"), Counts(missed=40)),
        (EngineFailure("it broke"), Counts(rows=40, errors=40, calls=1)),
        (None, Counts(rows=40, calls=1)),
    ],
)
@pytest.mark.parametrize("shadow", [False, True], ids=["canary", "shadow"])
async def test_callers_are_answered_and_only_the_versions_fault_is_counted(
    failure: Exception | None, counted: Counts, shadow: bool
) -> None:
    control = split(weight=0, shadow=10_000) if shadow else split()
    scorer = RoutedScorer(control, Candidate(None if shadow and type(failure) is EngineFailure else failure))
    await scorer.start()
    scored = await scorer.score("digits", {INPUT: rows(40)})
    assert scored.errors == {}
    while control.counts(2) == Counts():
        await scorer._push.flush()
        await asyncio.sleep(0.01)
    await scorer.close()
    if not shadow:
        assert control.counts(2) == counted
    elif type(failure) is EngineFailure:
        assert control.counts(2) == Counts(rows=40, compared=40)
    else:
        assert control.counts(2) == replace(counted, calls=0, compared=counted.rows)


@pytest.mark.anyio
async def test_who_had_the_call_and_was_late_was_slow_and_who_was_away_was_not() -> None:
    class After(Candidate):
        async def score(self, target: Target, tensors: Mapping[str, Array], timeout_s: float) -> Answer:
            await asyncio.sleep(0.01)
            return await super().score(target, tensors, timeout_s)

    for failure, slow in ((Late("it had it"), 1), (NoCapacity("nobody had it"), 0)):
        control = split(slow_ms=1.0)
        scorer = RoutedScorer(control, After(failure))
        await scorer.start()
        await scorer.score("digits", {INPUT: rows(40)})
        await scorer.close()
        assert control.counts(2) == Counts(calls=slow, slow=slow, missed=40)


class Killed(RemoteTransport):
    """A replica dies under the first calls, whatever they hold; `waits_s` until there is another."""

    def __init__(self, deaths: int) -> None:
        super().__init__()
        self.deaths = deaths

    async def _once(self, target: Target, tensors: Mapping[str, Array], end_s: float) -> Answer:
        if target.version == 2 and self.deaths:
            self.deaths -= 1
            raise RayActorError
        await asyncio.sleep(0.01)
        return answered(tensors)


@pytest.mark.anyio
async def test_remote_a_call_cut_by_a_death_is_asked_again_and_its_time_says_nothing() -> None:
    control = split(slow_ms=1.0)
    scorer = RoutedScorer(control, Killed(1))
    await scorer.start()
    await asyncio.gather(*(scorer.score("digits", {INPUT: rows(4)}) for _ in range(3)))
    await scorer.score("digits", {INPUT: rows(4)})
    await scorer.close()
    # Those that began while it was away are not timed; the last one is.
    told = control.counts(2)
    assert (told.rows, told.errors, told.missed) == (16, 0, 0)
    assert 1 <= told.calls < 4


class Fatal(Killed):
    """Replicas die of each row whose first feature is above 0.5."""

    async def _once(self, target: Target, tensors: Mapping[str, Array], end_s: float) -> Answer:
        if target.version == 2 and float(tensors[INPUT][:, 0].max()) > 0.5:
            raise RayActorError
        return answered(tensors)


@pytest.mark.anyio
async def test_remote_a_row_that_kills_its_replicas_is_the_versions_fault() -> None:
    control, image = split(slow_ms=10_000.0), rows(40)
    image[7, 0] = 0.9
    scorer = RoutedScorer(control, Fatal(0))
    await scorer.start()
    scored = await scorer.score("digits", {INPUT: image})
    await scorer.close()
    assert scored.errors == {}
    assert control.counts(2) == Counts(rows=40, errors=1)


class Slow:
    """An engine that is done when it is told."""

    over = threading.Event()

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        self.over.wait(60)
        return answered(tensors).outputs


@pytest.mark.anyio
async def test_embedded_who_is_late_missed_the_call_and_was_slow() -> None:
    def load(target: Target, _: Serving) -> Engine:
        return Slow() if target.version == 2 else Quick()  # type: ignore[return-value]

    embedded, serving = EmbeddedTransport(load), Serving(transport=TransportKind.EMBEDDED, timeout_s=2.0)
    control = TableControl(routed(serving=serving, slow_ms=50.0))
    scorer = RoutedScorer(control, Candidate(NoCapacity("none")), embedded)
    await scorer.start()
    await embedded.settled([each.app for each in TARGETS])
    scored = await scorer.score("digits", {INPUT: rows(4)})
    Slow.over.set()
    assert scored.errors == {}
    await scorer.close()
    assert control.counts(2) == Counts(calls=1, slow=1, missed=4)


class Quick(Slow):
    """One that is."""

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        return answered(tensors).outputs


def test_a_stream_counts_so_and_a_batch_counts_nothing() -> None:
    control = split()
    with ScorerThread(lambda: RoutedScorer(control, Candidate(NoCapacity("killed")))) as thread:
        assert thread.submit("digits", {INPUT: rows(4)}, [b"key"] * 4, donated=True).result().errors == {}
        patient = RemoteScorer(thread, "digits", 2, rows_per_call=4, calls=1, pauses_s=(0,))
        with pytest.raises(NoCapacity):
            patient.score({INPUT: rows(4)}, 4)
    assert control.counts(2) == Counts(missed=4)
