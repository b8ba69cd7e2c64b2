"""`python -m bench.controller_load [--quick] [--json] [--profile]`: the controller while 200 scorers tell it what they count.

1,000 models of 20 versions, 50 of them in rollouts that go on, and 100 streams. The controller's whole core is real, and so is
its store, SQLite on a disk; fleet, feeds and jobs are fakes in memory, so that nothing of Ray is timed. Each scorer tells
evidence and metrics each second, and of 20 models each ten seconds how their rows are. What is told comes pickled, as from Ray,
and what a scorer is told of a new table leaves so. The clock is simulated: ticks come each half second, however long they take.

Figures stand beside what is allowed: a tick takes a quarter of its period at most, all together half a processor. `cpu` is
processor time, which a busy machine changes less; the rest of a tick is the store's disk.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import pickle
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console

from bench.controller import NOW_S, VERSIONS, made_version
from bench.drift_rows import CountedRows
from bench.figures import Figure, show
from cluster.control_plane import Told
from cluster.controller import Controller
from cluster.drift.counts import DriftReport, reference_digest
from cluster.errors import NotFound
from cluster.fleet.serving import Serving
from cluster.ports import FeedKind, FeedSpec
from cluster.rollout.evidence import Counts, EvidenceBatch, EvidenceKey
from cluster.rollout.plan import Plan
from cluster.rollout.steps import Step
from cluster.state import Feed, Model, State
from cluster.store.sql import SqlStore
from cluster.versions import Versions
from cluster.watch.catalogue import (
    CALL_ROWS,
    ENGINE_SECONDS,
    QUEUE_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
    REQUESTS_UNDER_WAY,
    ROWS_SCORED,
    SCORERS,
    STREAM_LAG,
    STREAM_RECORDS,
    TABLE_AGE,
    Metric,
)
from cluster.watch.history import COARSE_POINTS, FINE_POINTS
from cluster.watch.reports import Buckets, MetricsReport, Series
from consumers.batch.schedule.fake_jobs import FakeJobs
from consumers.stream.serving.fake_feeds import FakeFeeds
from deployments.serving.collector import spare_collections
from deployments.serving.fake_fleet import FakeFleet
from headrace.controller_actor import TICK_S

SCORER_COUNT, MODELS, STREAMS, ROLLOUTS = 200, 1000, 100, 50
MODELS_A_SCORER, ROLLING_A_SCORER, CALLERS = 20, 5, 3
ROWS_A_SECOND = 20  # of one model by one scorer
INPUTS, OUTPUTS, ROWS_WATCHED = 64, 10, 50
SETTLES_S, DRIFT_EVERY_S = 25, 10
WEIGHTS = (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
PLAN = Plan(steps=tuple(Step(weight=weight, bake_s=30) for weight in WEIGHTS))
MIB = 2**20

P50_MS, P99_MS = 1000 * TICK_S / 10, 1000 * TICK_S / 4
PROCESSORS = 0.5
MEMORY_MIB = 1024
AGE_MS = 1000.0


class SimulatedClock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@dataclass
class SimulatedScorer:
    """One of the processes that score: some models, a few of which are in rollouts."""

    number: int
    models: list[int]
    stream: str | None
    sequence: int = 0

    def told(self, world: World) -> Iterator[Told]:
        """What it tells in one second."""
        self.sequence += 1
        counts: dict[EvidenceKey, Counts] = {}
        routes = world.controller.table.routes
        for model in self.models:
            route = routes[model_name(model)]
            if route.candidate is None:
                continue
            for version, share in ((route.stable, 0.5), (route.candidate, 0.5)):
                rows = round(share * ROWS_A_SECOND)
                for caller in ("", *(f"caller-{number}" for number in range(CALLERS))):
                    part = rows if not caller else rows // CALLERS
                    counts[EvidenceKey(route.model, route.stage, version, caller)] = Counts(rows=part, calls=part)
        if counts:
            yield EvidenceBatch(f"scorer-{self.number}", self.sequence, counts)
        yield self._metrics()
        if self.sequence % DRIFT_EVERY_S == self.number % DRIFT_EVERY_S:
            yield from self._drift(world)

    def _metrics(self) -> MetricsReport:
        counters: dict[Series, float] = {}
        histograms: dict[Series, Buckets] = {}
        for model in self.models:
            name, version = model_name(model), str(VERSIONS)
            counters[Series(ROWS_SCORED.name, (name, version, "online"))] = ROWS_A_SECOND
            counters[Series(REQUESTS.name, (name, version, "http", "ok"))] = ROWS_A_SECOND
            for metric, labels in _HISTOGRAMS:
                histograms[Series(metric.name, (name, version, *labels))] = _OBSERVED[metric.name]
        gauges: dict[Series, float] = {
            Series(SCORERS.name, ()): 1,
            Series(TABLE_AGE.name, ()): 0.1,
            Series(REQUESTS_UNDER_WAY.name, ()): 3,
        }
        if self.stream is not None:
            counters[Series(STREAM_RECORDS.name, (self.stream, "scored"))] = ROWS_A_SECOND
            gauges[Series(STREAM_LAG.name, (self.stream,))] = 10
        return MetricsReport(f"process-{self.number}", self.sequence, counters, histograms, gauges)

    def _drift(self, world: World) -> Iterator[DriftReport]:
        for model in self.models:
            rows, hits, histogram = world.rows[(self.sequence + model) % len(world.rows)]
            source = f"{self.number}/{model}"
            yield DriftReport(source, self.sequence, model_name(model), VERSIONS, world.digest, rows, hits, histogram)


_HISTOGRAMS: tuple[tuple[Metric, tuple[str, ...]], ...] = (
    (REQUEST_SECONDS, ("http",)),
    (QUEUE_SECONDS, ()),
    (ENGINE_SECONDS, ("online",)),
    (CALL_ROWS, ("online",)),
)
_OBSERVED = {
    metric.name: Buckets((0, 4, 10, 6, *(0 for _ in metric.bounds[3:])), ROWS_A_SECOND * 0.002) for metric, _ in _HISTOGRAMS
}


@dataclass
class Spent:
    """Processor time of the controller by what it was spent on, and what was seen meanwhile."""

    ticks_ms: list[float] = field(default_factory=list)
    ticks_cpu_ms: list[float] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)
    change_bytes: list[int] = field(default_factory=list)
    take_s: float = 0.0
    tell_s: float = 0.0
    pushes: int = 0

    @property
    def tick_s(self) -> float:
        """Of all ticks."""
        return sum(self.ticks_cpu_ms) / 1000


class World:
    """A controller with all that it looks after, and those who tell it."""

    def __init__(self, folder: Path) -> None:
        self.clock = SimulatedClock()
        self.store = SqlStore(f"sqlite:///{folder / 'store.db'}")
        self._fill()
        self.controller = Controller(self.store, FakeFleet(), FakeFeeds(), FakeJobs(), self.clock, look_every_s=0.0)
        random = np.random.default_rng(0)
        counted = CountedRows(*_rows(random, 2000))
        self.reference, self.digest = counted.reference, reference_digest(counted.reference)
        looked = [counted.counts(*_rows(random, ROWS_WATCHED)) for _ in range(32)]
        self.rows = [(one.rows, one.hits, one.histogram) for one in looked]
        self.scorers = [self._scorer(number, random) for number in range(SCORER_COUNT)]
        self.spent = Spent()

    def come_to_rest(self) -> None:
        """All stable versions serve, then the rollouts begin. Raises SystemExit where they do not."""
        for _ in range(4):
            self._go_on()
            self.controller.tick()
        if len(self.controller.table.routes) != MODELS:
            raise SystemExit("not all models are served: the figures would mean nothing")
        for number in range(ROLLOUTS):
            about = made_version(model_name(number), VERSIONS + 1)
            request = {"artifact_uri": about.artifact_uri, "digest": about.digest, "engine": about.engine}
            signature = about.signature.model_dump(mode="json")
            self.controller.call("version.register", {"model": model_name(number), **request, "signature": signature})
            self._go_on()
            self.controller.tick()  # so that their steps end at different times
        spare_collections()  # as the controller's process does

    def run(self, seconds: int, around: Callable[[], contextlib.AbstractContextManager[object]]) -> Spent:
        """So many simulated seconds. `around` is entered for all that the controller does."""
        spent = self.spent = Spent()
        for _ in range(seconds):
            told = [pickle.dumps(each, pickle.HIGHEST_PROTOCOL) for scorer in self.scorers for each in scorer.told(self)]
            spent.pushes += len(told)
            with around():
                began_s = time.process_time()
                for each in told:
                    self._push(pickle.loads(each))  # noqa: S301 - its own
                spent.take_s += time.process_time() - began_s
            for _ in range(round(1 / TICK_S)):
                self._go_on()
                with around():
                    self._tick(spent)
        return spent

    def rolling(self) -> int:
        """How many rollouts are under way."""
        return sum(route.candidate is not None for route in self.controller.table.routes.values())

    def _tick(self, spent: Spent) -> None:
        before, began_s, began_cpu_s = self.controller.table, time.perf_counter(), time.process_time()
        self.controller.tick()
        ended_s, ended_cpu_s = time.perf_counter(), time.process_time()
        spent.ticks_ms.append(1000 * (ended_s - began_s))
        spent.ticks_cpu_ms.append(1000 * (ended_cpu_s - began_cpu_s))
        if self.controller.table.stamp != before.stamp:
            for _ in self.scorers:
                news = pickle.dumps(self.controller.news(before.stamp), pickle.HIGHEST_PROTOCOL)
            spent.change_bytes.append(len(news))
            spent.ages_ms.append(1000 * (time.perf_counter() - began_s))
            spent.tell_s += time.process_time() - ended_cpu_s

    def _push(self, told: Told) -> None:
        try:
            self.controller.push(told)
        except NotFound:
            assert isinstance(told, DriftReport)
            self.controller.push(pickle.loads(pickle.dumps(told.with_reference(self.reference))))  # noqa: S301 - its own

    def _go_on(self) -> None:
        self.clock.now_s += TICK_S

    def _fill(self) -> None:
        versions = Versions(made_version(model_name(number), each) for number in range(MODELS) for each in range(1, VERSIONS + 1))
        models = {
            name: Model(name, Serving(), PLAN, stable=VERSIONS, last_number=VERSIONS, considered=VERSIONS)
            for name in map(model_name, range(MODELS))
        }
        specs = [FeedSpec(FeedKind.STREAM, f"stream-{n}", model_name(n), "{}", "d") for n in range(STREAMS)]
        before = self.store.load()
        state = replace(State(), versions=versions, models=models, feeds={spec.app: Feed(spec) for spec in specs})
        self.store.save(self.store.acquire(), before, state, [])

    def _scorer(self, number: int, random: np.random.Generator) -> SimulatedScorer:
        rolling = random.choice(ROLLOUTS, ROLLING_A_SCORER, replace=False).tolist()
        others = [(number * (MODELS_A_SCORER - ROLLING_A_SCORER) + each) % (MODELS - ROLLOUTS) for each in range(15)]
        stream = f"stream-{number}" if number < STREAMS else None
        return SimulatedScorer(number, [*rolling, *(ROLLOUTS + each for each in others)], stream)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer simulated seconds: about half a minute")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--profile", action="store_true", help="tell where the time goes, on standard error")
    options = parser.parse_args()
    seconds = 45 if options.quick else 180
    screen, profile = Console(stderr=True), cProfile.Profile() if options.profile else None
    with tempfile.TemporaryDirectory() as folder:
        before_mib = memory_mib()
        world = World(Path(folder))
        world.come_to_rest()
        world.run(SETTLES_S, contextlib.nullcontext)
        loaded_mib = memory_mib()
        spent = world.run(seconds, contextlib.nullcontext if profile is None else lambda: profile)
        if world.rolling() != ROLLOUTS:
            raise SystemExit(f"{world.rolling()} rollouts are under way, not {ROLLOUTS}: the figures would mean nothing")
        screen.print(f"{spent.pushes / seconds:,.0f} messages and {len(spent.ages_ms) / seconds:.1f} tables a simulated second")
        parts = {"ticks": spent.tick_s, "taking what is told": spent.take_s, "telling of tables": spent.tell_s}
        screen.print(", ".join(f"{name} {each / seconds:.3f}" for name, each in parts.items()) + " processors")
        history_mib = full_history_mib(world)
        figures = [
            *figures_of(spent, seconds, len(pickle.dumps(world.controller.table, pickle.HIGHEST_PROTOCOL))),
            Figure("controller.load.memory", loaded_mib - before_mib, MEMORY_MIB, "MiB (lower is better, allowed)"),
            Figure(
                "controller.load.history", history_mib, MEMORY_MIB / 8, "MiB of a full day's history (lower is better, allowed)"
            ),
        ]
    if profile is not None:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
    show(figures, as_json=options.json)


def figures_of(spent: Spent, seconds: int, table_bytes: int) -> list[Figure]:
    """Beside what is allowed."""
    lower, processors = "(lower is better, allowed)", (spent.tick_s + spent.take_s + spent.tell_s) / seconds
    return [
        Figure("controller.load.tick.p50", statistics.median(spent.ticks_ms), P50_MS, f"ms {lower}"),
        Figure("controller.load.tick.p99", part(spent.ticks_ms, 0.99), P99_MS, f"ms {lower}"),
        Figure("controller.load.tick.cpu.p50", statistics.median(spent.ticks_cpu_ms), P50_MS, f"ms {lower}"),
        Figure("controller.load.tick.cpu.p99", part(spent.ticks_cpu_ms, 0.99), P99_MS, f"ms {lower}"),
        Figure("controller.load.processors", processors, PROCESSORS, f"processors {lower}"),
        Figure("controller.load.table_age", part(spent.ages_ms, 0.99), AGE_MS, f"ms until the last scorer has it, p99 {lower}"),
        Figure(
            "controller.load.change", statistics.median(spent.change_bytes), table_bytes, "bytes (lower is better, the whole)"
        ),
    ]


def part(values: Sequence[float], share: float) -> float:
    """What so large a share does not exceed."""
    return float(np.quantile(values, share))


def memory_mib() -> float:
    """What is this process's alone."""
    return psutil.Process().memory_full_info().uss / MIB


def full_history_mib(world: World) -> float:
    """What a day's points hold, from what the next few add."""
    points = 30
    before = memory_mib()
    for _ in range(points):
        for _ in range(round(DRIFT_EVERY_S / TICK_S)):
            world.clock.now_s += TICK_S
        world.controller.tick()
    return (memory_mib() - before) * (FINE_POINTS + COARSE_POINTS) / points


def model_name(number: int) -> str:
    """Of the models the first are in rollouts."""
    return f"model-{number}"


def _rows(random: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    return random.random((rows, INPUTS), np.float32), random.random((rows, OUTPUTS), np.float32)


if __name__ == "__main__":
    main()
