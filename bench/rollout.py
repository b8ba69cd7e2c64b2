"""`python -m bench.rollout [--quick] [--json]`: what a rollout under way costs, and how fast a new table reaches all scorers.

What is compared takes turns of a second or two: a machine's own speed differs by a tenth from minute to minute. At the gateway
these are models alike, with a rollout under way and without, asked by 128 callers in a hurry: with fewer it gives less than it
can (64 get some nine tenths of that), and the tenth of them that waits for the candidate's next call is missed. A canary's
cost is measured of a model on replicas (`rollout.canary.gateway.remote`) and of an embedded one whose candidate has passed a
step (`.embedded`) or is on its first, in a process of its own (`.embedded.trial`): the goal is at least 0.95 of the throughput
without one, as it is for `rollout.canary.stream`, a stream's worker whose table has a canary in turn.

A shadow's p99 is that of 100 requests/s (of all rounds together: one has too few slow ones), since on busy cores any second
scoring delays the first. The way of a table is timed from the command that starts a rollout with the plan `instant` until the
last of eight scorers uses it.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from bench.figures import Figure, show
from bench.http_load import Measured, measure, measure_in_turn, p99, refuse_failed
from bench.paired import paired
from bench.service import Service, http_message, running
from bench.stream_canary import canary
from cluster.rollout.plan import NamedPlan, Plan
from deployments.control.client import connect
from deployments.scoring.scorer import RoutedScorer

MODEL = "bench-rollout"
PLAIN = "plain"
REMOTE = f"{MODEL}-remote-0"
SERVING = {"resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
STILL = {"bake_s": 86_400}
LONG = {"deadline_s": 86_400, "keep_warm_s": 3600}
CANARY = Plan.model_validate({"steps": [{"weight": 10, **STILL}, {"weight": 100}], **LONG})
SECOND_STEP = Plan.model_validate({"steps": [{"weight": 1, "bake_s": 0}, {"weight": 10, **STILL}, {"weight": 100}], **LONG})
SHADOW = Plan.model_validate({"steps": [{"shadow": 100, **STILL}, {"weight": 100}], **LONG})
# By transport: models whose rollout stays under way, by the ends of their figures.
UNDER_WAY = {
    "embedded": {"canary.gateway.embedded": SECOND_STEP, "canary.gateway.embedded.trial": CANARY},
    "remote": {"canary.gateway.remote": CANARY, "shadow.gateway": SHADOW},
}
SCORERS = 8
CALLERS, TURN_S, UNHURRIED_PER_S = 128, 1.0, 100.0
PROPAGATION_BOUND_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under ten minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    rounds, seconds, changes, passes = (24, 8.0, 20, 6) if options.quick else (60, 30.0, 100, 30)
    screen = Console(stderr=True)
    figures: list[Figure] = []
    with running() as service:
        for transport, plans in UNDER_WAY.items():
            figures += side_by_side(service, transport, plans, rounds, screen)
        # Where all cores are busy, the second scoring takes the first one's time, whoever waits for it.
        under_way, without = turns(service, REMOTE, SHADOW, max(3, rounds // 8), seconds)
        screen.print(f"shadow p99: {_p99s(under_way)} against {_p99s(without)} ms")
        slowest = [p99([took for one in side for took in one.took_ms]) for side in (under_way, without)]
        figures.append(Figure("rollout.shadow.gateway.p99", *slowest, "ms (lower is better)"))
        service.control.start_rollout(REMOTE, 2, plan=NamedPlan.INSTANT)
        service.rollout_at(REMOTE, 2, "promoted")
        took = asyncio.run(propagation(service, changes))
        screen.print(f"table to {SCORERS} scorers: median {took[len(took) // 2]:.3f} s, worst {took[-1]:.3f} s")
        figures.append(Figure("rollout.table.p99", p99(took), PROPAGATION_BOUND_S, "s (lower is better, bound)"))
    figures.append(canary(passes, screen))
    show(figures, as_json=options.json)


def prepare(service: Service, model: str, transport: str) -> None:
    """Version 1 is promoted, version 2 is registered and waits for its rollout."""
    service.apply(model, {"transport": transport, **SERVING}, {"start": "manual", "keep_warm_s": 3600})
    service.rollout_at(model, service.register(model, 128), "promoted")
    service.register(model, 136)


def side_by_side(service: Service, transport: str, plans: Mapping[str, Plan], rounds: int, screen: Console) -> list[Figure]:
    """A model for each plan, its rollout under way, and one without, asked in turn. Rollouts are aborted at the end."""
    models = {name: f"{MODEL}-{transport}-{number}" for number, name in enumerate((PLAIN, *plans))}
    for model in models.values():
        prepare(service, model, transport)
    for name, plan in plans.items():
        begin(service, models[name], plan)
    messages = [http_message(model) for model in models.values()]
    found = measure_in_turn(service.port, messages, connections=CALLERS, seconds=TURN_S, rounds=rounds)
    for name in plans:
        service.control.abort(models[name])
    refuse_failed(turn for turns in found for turn in turns)
    rates = dict(zip(models, ([turn.requests_per_s for turn in turns] for turns in found), strict=True))
    return [paired(f"rollout.{name}", rates[name], rates[PLAIN], "requests/s", screen) for name in plans]


def turns(service: Service, model: str, plan: Plan, rounds: int, seconds: float) -> tuple[list[Measured], list[Measured]]:
    """A load that is far from all that it can bear, with a rollout under way and without, in turn; the first of each does not
    count.

    Each begins when a load as long has passed: processes that start or end with a rollout take their seconds once, not all along.
    """
    under_way, without = [], []
    message = http_message(model)

    def measured() -> Measured:
        measure(service.port, message, connections=CALLERS, seconds=seconds, requests_per_s=UNHURRIED_PER_S)
        return measure(service.port, message, connections=CALLERS, seconds=seconds, requests_per_s=UNHURRIED_PER_S)

    for _ in range(rounds + 1):
        without.append(measured())
        begin(service, model, plan)
        under_way.append(measured())
        service.control.abort(model)
    refuse_failed((*under_way, *without))
    return under_way[1:], without[1:]


def begin(service: Service, model: str, plan: Plan) -> None:
    """Starts the rollout of version 2; returns once it is at the step that stays."""
    still = next(step for step in plan.steps if step.bake_s == STILL["bake_s"])
    service.control.start_rollout(model, 2, plan=plan)
    service.rollout_when(model, lambda rollout: (rollout.weight, rollout.shadow) == (still.weight, still.shadow))


def _p99s(measured: list[Measured]) -> list[float]:
    return [round(one.p99_ms, 2) for one in measured]


async def propagation(service: Service, changes: int) -> list[float]:
    """Seconds from each command until all scorers use the new table, in rising order. Both versions are warm."""
    scorers = [RoutedScorer(connect()) for _ in range(SCORERS)]
    for scorer in scorers:
        await scorer.start()
    took = []
    for change in range(changes):
        version = 1 if change % 2 == 0 else 2
        begin = time.perf_counter()
        await asyncio.to_thread(service.control.start_rollout, REMOTE, version, plan=NamedPlan.INSTANT)
        while not all(_serves(scorer, version) for scorer in scorers):
            await asyncio.sleep(0.002)
        took.append(time.perf_counter() - begin)
        await asyncio.to_thread(service.rollout_at, REMOTE, version, "promoted")
    for scorer in scorers:
        await scorer.close()
    return sorted(took)


def _serves(scorer: RoutedScorer, version: int) -> bool:
    route: Any = scorer.route(REMOTE)
    return bool(route.stable == version or (route.candidate == version and route.weight == 10_000))


if __name__ == "__main__":
    main()
