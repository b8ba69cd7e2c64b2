"""`python -m bench.controller [--quick] [--json]`: what the controller costs with many models of 20 versions, at rest.

A tick that looks at the world, decides, and finds nothing to do; the command `status`, whose answer is plain data; and the
table's bytes as they travel to a scorer, whole and where one model has changed. All over fakes in memory, so that nothing of Ray
or a database is timed. The reference of a tick is its goal, and of a change the whole table. Of `status` and the table it is what
they come to with ten models, as many times as there are more: a ratio well above 1 tells of what grows faster than the models do.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rich.console import Console

from bench.figures import Figure, show
from cluster.controller import Controller
from cluster.fleet.serving import Serving
from cluster.rollout.plan import Plan
from cluster.routing.changes import change_between
from cluster.signature import Datatype, Signature, TensorSpec
from cluster.state import Model, State
from cluster.store.memory import MemoryStore
from cluster.versions import Version, VersionId, Versions
from consumers.batch.schedule.fake_jobs import FakeJobs
from deployments.control.fake_control import NoFeeds
from deployments.serving.fake_fleet import FakeFleet

MODELS = (10, 100, 1000)
VERSIONS = 20
TICK_GOAL_MS = 50.0
NOW_S = 1_000_000.0
SIGNATURE = Signature(
    inputs=(TensorSpec(name="input", datatype=Datatype.FP32, shape=(-1, 64)),),
    outputs=(TensorSpec(name="output", datatype=Datatype.FP32, shape=(-1, 10)),),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    rounds = 3 if options.quick else 20
    screen = Console(stderr=True)
    figures: list[Figure] = []
    few = at_rest(MODELS[0])
    few_status_ms, few_bytes = median_ms(partial(few.call, "status", {}), rounds), table_bytes(few)
    for models in MODELS:
        controller, times = at_rest(models), models / MODELS[0]
        tick_ms, status_ms = median_ms(controller.tick, rounds), median_ms(partial(controller.call, "status", {}), rounds)
        screen.print(f"{models} models: a tick {tick_ms:.1f} ms, status {status_ms:.1f} ms")
        figures.append(Figure(f"controller.tick.{models}", tick_ms, TICK_GOAL_MS, "ms (lower is better, goal)"))
        figures.append(Figure(f"controller.status.{models}", status_ms, times * few_status_ms, "ms (lower is better)"))
        whole = table_bytes(controller)
        figures.append(Figure(f"controller.table.{models}", whole, times * few_bytes, "bytes (lower is better)"))
        figures.append(Figure(f"controller.change.{models}", change_bytes(controller), whole, "bytes (lower is better)"))
    show(figures, as_json=options.json)


def at_rest(models: int) -> Controller:
    """A controller that serves the newest version of each model, and has nothing left to do. Raises SystemExit where it has."""
    store, fleet = MemoryStore(), FakeFleet()
    names = [f"model-{number}" for number in range(models)]
    versions = Versions(made_version(name, number) for name in names for number in range(1, VERSIONS + 1))
    known = {name: Model(name, Serving(), Plan(), stable=VERSIONS, last_number=VERSIONS, considered=VERSIONS) for name in names}
    before = store.load()
    store.save(store.acquire(), before, replace(State(), versions=versions, models=known), [])
    controller = Controller(store, fleet, NoFeeds(), FakeJobs(), lambda: NOW_S)
    for _ in range(4):
        controller.tick()
    if not controller.settled or len(controller.table.routes) != models:
        raise SystemExit("it does not come to rest: the figures would mean nothing")
    return controller


def table_bytes(controller: Controller) -> int:
    """Of the whole table, as it is pickled for a scorer."""
    return len(pickle.dumps(controller.table, protocol=pickle.HIGHEST_PROTOCOL))


def change_bytes(controller: Controller) -> int:
    """Of what a scorer is told that has the last table, when one model has changed."""
    table = controller.table
    name = next(iter(table.routes))
    after = replace(table, number=table.number + 1, routes={**table.routes, name: replace(table.routes[name], weight=1)})
    return len(pickle.dumps(change_between(table, after), protocol=pickle.HIGHEST_PROTOCOL))


def median_ms(what: Callable[[], object], rounds: int) -> float:
    """The median time that it takes."""
    took = []
    for _ in range(rounds):
        begin = time.perf_counter()
        what()
        took.append(1000 * (time.perf_counter() - begin))
    return statistics.median(took)


def made_version(name: str, number: int) -> Version:
    digest = f"{number:064x}"
    return Version(VersionId(name, number), f"file:///artifacts/{name}/{number}", digest, "onnx", SIGNATURE, NOW_S)


if __name__ == "__main__":
    main()
