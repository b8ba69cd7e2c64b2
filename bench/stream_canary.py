"""What a canary costs a stream: one worker, whose table has a canary and has none in turn.

Rates of two runs differ by a tenth, whatever they do; turns of one worker follow each other within a second. As a process,
`python -m bench.stream_canary JOB`, it drains a topic and prints its turns.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import orjson
from rich.console import Console

from bench.figures import Figure
from bench.paired import paired
from bench.stream import PYTHON, Bench, prepared, topic_of
from bench.stream_worker import HeldTable, Job, work
from cluster.routing.routes import RouteTable, Stamp
from consumers.stream.spec import Format, StreamSpec
from deployments.scoring.call import Call
from deployments.scoring.scorer import RoutedScorer

EVENTS = 480_000
# Micro-batches, of 2,000 events. While the first of a turn are scored, the last turn's are still on their way out.
TURN_BATCHES, UNCOUNTED_BATCHES = 14, 5
WARM_TURNS = 2


class Batch(NamedTuple):
    """A micro-batch, as its scoring began."""

    canary: bool
    rows: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Turn:
    """The rate of one turn, by what counts of it."""

    canary: bool
    events_per_s: float


def canary(passes: int, screen: Console) -> Figure:
    """Events a second with a canary under way against those without a rollout: a figure of `bench.rollout`."""
    with prepared({Format.JSON: EVENTS}, 1, screen) as bench:
        topic = topic_of(bench, {}, Format.JSON)
        bench.warm_up(topic, Format.JSON)
        turns = [turn for _ in range(passes) for turn in drained(bench, topic)]
    under_way, without = ([turn.events_per_s for turn in turns if turn.canary is side] for side in (True, False))
    return paired("rollout.canary.stream", under_way, without, "events/s", screen)


def drained(bench: Bench, topic: str) -> list[Turn]:
    """Pairs of turns of a fresh group, without the first, in which it starts."""
    command = [PYTHON, "-m", __name__, bench.job(bench.spec(topic, Format.JSON)).dump()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        told = process.stdout.read() if process.stdout is not None else b""
    if process.returncode:
        raise SystemExit("the worker failed")
    turns = [Turn(**turn) for turn in orjson.loads(told)][WARM_TURNS:]
    return turns[: len(turns) // 2 * 2]


class TableInTurn(HeldTable):
    """With a canary, and without, in turn."""

    def __init__(self, job: Job, model: str) -> None:
        super().__init__(job, model)
        self._other = HeldTable(job, model, canary=False).table
        self._changed = asyncio.Event()

    def change(self) -> None:
        """To the other one."""
        self.table, self._other = replace(self._other, number=self.table.number + 1), self.table
        self._changed.set()

    async def routes(self, after: Stamp, timeout_s: float) -> RouteTable:  # noqa: ARG002
        while self.table.stamp <= after:
            self._changed.clear()
            await self._changed.wait()
        return self.table


class ScorerInTurn(RoutedScorer):
    """Has the table changed after so many calls, and writes down by which each began."""

    def __init__(self, control: TableInTurn, batches: list[Batch]) -> None:
        super().__init__(control)
        self._control = control
        self._batches = batches
        self._loop = asyncio.get_running_loop()

    def begin(self, model: str, tensors: Any, *rest: Any, **options: Any) -> Call:
        call = super().begin(model, tensors, *rest, **options)
        self._batches.append(Batch(call.candidate is not None, call.rows, time.perf_counter()))
        if len(self._batches) % TURN_BATCHES == 0:
            self._loop.call_soon_threadsafe(self._control.change)
        return call


def turns_of(batches: Sequence[Batch]) -> list[Turn]:
    """Each turn, in order, without the last, which may be short."""
    turns = []
    for side, group in groupby(batches, attrgetter("canary")):
        counted = list(group)[UNCOUNTED_BATCHES:]
        if len(counted) > 1:
            rows = sum(batch.rows for batch in counted[:-1])
            turns.append(Turn(side, rows / (counted[-1].at_s - counted[0].at_s)))
    return turns[:-1]


def main() -> None:
    job = Job.load(sys.argv[1])
    spec = StreamSpec.model_validate_json(job.document)
    batches: list[Batch] = []
    counters = work(job, spec, lambda: ScorerInTurn(TableInTurn(job, spec.model), batches))
    if counters.rows_out != job.rows:
        raise SystemExit(f"{counters.rows_out} answers to {job.rows} events")
    sys.stdout.buffer.write(orjson.dumps(turns_of(batches)))


if __name__ == "__main__":
    main()
