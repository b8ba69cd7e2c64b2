"""`python -m bench.rollout [--quick] [--json]`: what a rollout under way costs, and how fast a new table reaches all scorers.

The same load with and without a rollout, in turn; figures are medians. Throughput is that of 64 callers in a hurry: of fewer, the
tenth that waits for the candidate's next call is a tenth of the load that the gateway is given. A shadow's p99 is that of 100
requests/s (of all rounds together: one has too few slow ones), since on busy cores any second scoring delays the first. A
canary's cost at the gateway is measured for a model on replicas (`rollout.canary.gateway.remote`) and for an embedded one whose
candidate has passed a step (`.embedded`) or is on its first, in a process of its own (`.embedded.trial`): the goal is at least
0.95 of the throughput without one. The way of a table is timed from the command that starts a rollout with the plan `instant`
until the last of eight scorers uses it. A stream's worker is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from rich.console import Console

from bench.batch import Figure, show
from bench.http_load import Measured, measure, p99, refuse_failed, request
from bench.online import TRANSPORTS, compared
from bench.service import Service, awaited, binary_body, running
from bench.stream import canary
from cluster.rollout_plan import NamedPlan, Plan
from deployments.control_client import connect
from deployments.scorer import RoutedScorer

MODEL = "bench-rollout"
REMOTE = f"{MODEL}-remote"
SERVING = {"resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
STILL = {"bake_s": 86_400}
LONG = {"deadline_s": 86_400, "keep_warm_s": 3600}
CANARY = Plan.model_validate({"steps": [{"weight": 10, **STILL}, {"weight": 100}], **LONG})
SECOND_STEP = Plan.model_validate({"steps": [{"weight": 1, "bake_s": 0}, {"weight": 10, **STILL}, {"weight": 100}], **LONG})
SHADOW = Plan.model_validate({"steps": [{"shadow": 100, **STILL}, {"weight": 100}], **LONG})
CANARIES = (("embedded", "embedded", SECOND_STEP), ("embedded.trial", "embedded", CANARY), ("remote", "remote", CANARY))
SCORERS = 8
CALLERS, UNHURRIED_PER_S = 64, 100.0
PROPAGATION_BOUND_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under ten minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    rounds, seconds, changes, events = (3, 4.0, 20, 120_000) if options.quick else (7, 15.0, 100, 240_000)
    screen = Console(stderr=True)
    figures: list[Figure] = []
    with running() as service:
        for transport in TRANSPORTS:
            prepare(service, f"{MODEL}-{transport}", transport)
        for canary_name, transport, plan in CANARIES:
            name = f"rollout.canary.gateway.{canary_name}"
            under_way, without = turns(service, f"{MODEL}-{transport}", plan, rounds, seconds)
            screen.print(f"{name}: {_rates(under_way)} against {_rates(without)}")
            figures += compared(name, under_way, without)
        under_way, without = turns(service, REMOTE, SHADOW, rounds, seconds)
        screen.print(f"shadow: {_rates(under_way)} against {_rates(without)}")
        figures.append(compared("rollout.shadow.gateway", under_way, without)[0])
        # Where all cores are busy, the second scoring takes the first one's time, whoever waits for it.
        under_way, without = turns(service, REMOTE, SHADOW, rounds, 2 * seconds, UNHURRIED_PER_S)
        screen.print(f"shadow p99: {_p99s(under_way)} against {_p99s(without)} ms")
        slowest = [p99([took for one in side for took in one.took_ms]) for side in (under_way, without)]
        figures.append(Figure("rollout.shadow.gateway.p99", *slowest, "ms (lower is better)"))
        service.control.start_rollout(REMOTE, 2, plan=NamedPlan.INSTANT)
        service.rollout_at(REMOTE, 2, "promoted")
        took = asyncio.run(propagation(service, changes))
        screen.print(f"table to {SCORERS} scorers: median {took[len(took) // 2]:.3f} s, worst {took[-1]:.3f} s")
        figures.append(Figure("rollout.table.p99", p99(took), PROPAGATION_BOUND_S, "s (lower is better, bound)"))
    figures.append(canary(events, rounds + 2, screen))
    show(figures, as_json=options.json)


def prepare(service: Service, model: str, transport: str) -> None:
    """Version 1 is promoted, version 2 is registered and waits for its rollout."""
    service.apply(model, {"transport": transport, **SERVING}, {"start": "manual", "keep_warm_s": 3600})
    service.rollout_at(model, service.register(model, 128), "promoted")
    service.register(model, 136)


def turns(
    service: Service, model: str, plan: Plan, rounds: int, seconds: float, requests_per_s: float = 0.0
) -> tuple[list[Measured], list[Measured]]:
    """The load with a rollout under way, and without, in turn; the first of each does not count.

    Each begins when a load as long has passed: processes that start or end with a rollout take their seconds once, not all along.
    """
    under_way, without = [], []
    body, headers = binary_body()
    message = request(f"/v2/models/{model}/infer", body, headers)

    def measured() -> Measured:
        measure(service.port, message, connections=CALLERS, seconds=seconds, requests_per_s=requests_per_s)
        return measure(service.port, message, connections=CALLERS, seconds=seconds, requests_per_s=requests_per_s)

    for _ in range(rounds + 1):
        without.append(measured())
        service.control.start_rollout(model, 2, plan=plan)
        awaited(lambda: _under_way(service, model))
        under_way.append(measured())
        service.control.abort(model)
    refuse_failed((*under_way, *without))
    return under_way[1:], without[1:]


def _under_way(service: Service, model: str) -> bool | None:
    rollout = service.control.rollout(model)
    return True if rollout is not None and (rollout.weight, rollout.shadow) in ((10, 0), (0, 100)) else None


def _rates(measured: list[Measured]) -> list[int]:
    return [round(one.requests_per_s) for one in measured]


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
