"""`python -m bench.explain_load [--quick] [--json]`: what users of a model wait for while its one replica explains without pause.

A hundred requests a second, with explanations and without, pair by pair in an order that is drawn; the model has one replica, and
two callers see to it that an explanation always waits there. The p99 of a pair with them is to be at most 1.5 times that without,
or 5 ms more. Figures are medians; `explanations` is how many a second were finished beside the users.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console

from bench.figures import Figure, show
from bench.http_load import Measured, measure, refuse_failed, request
from bench.service import Service, awaited, binary_body, running

MODEL = "bench-explain"
USERS_A_S = 100.0
CONNECTIONS, EXPLAINING = 8, 2
MOST_TIMES, MOST_MORE_MS = 1.5, 5.0


@dataclass(frozen=True, slots=True)
class LoadPair:
    """The p99 of users' requests, ms, beside explanations and without; and how many of those there were a second."""

    beside_ms: float
    without_ms: float
    explanations_a_s: float


def main() -> None:
    """Runs the pairs and shows the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: two minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    rounds, seconds = (5, 8.0) if options.quick else (15, 20.0)
    screen = Console(stderr=True)
    with running() as service:
        prepare(service)
        pairs = [pair(service, seconds) for _ in range(rounds + 1)][1:]
    for one in pairs:
        screen.print(
            f"p99 {one.beside_ms:.1f} ms beside {one.explanations_a_s:.2f} explanations/s, {one.without_ms:.1f} ms without"
        )
    beside, without = (statistics.median(each) for each in zip(*((one.beside_ms, one.without_ms) for one in pairs), strict=True))
    more_ms = statistics.median(one.beside_ms - one.without_ms for one in pairs)
    good = statistics.median(one.beside_ms / one.without_ms for one in pairs) <= MOST_TIMES or more_ms <= MOST_MORE_MS
    screen.print(f"{more_ms:+.1f} ms: {'within' if good else 'beyond'} {MOST_TIMES} times or {MOST_MORE_MS:g} ms more")
    rate = statistics.median(one.explanations_a_s for one in pairs)
    show(
        [
            Figure("explain_load.users_p99", beside, without, "ms"),
            Figure("explain_load.explanations", rate, USERS_A_S, "explanations/s beside users' requests/s"),
        ],
        as_json=options.json,
    )


def prepare(service: Service) -> None:
    """The model serves on one replica, and answers."""
    service.apply(
        MODEL, {"transport": "remote", "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}, {"steps": [{"weight": 100}]}
    )
    service.register(MODEL, hidden=128)
    service.rollout_at(MODEL, 1, "promoted")
    awaited(lambda: measure(service.port, users(), connections=1, seconds=1.0).failed == 0 or None)


def users() -> bytes:
    """One row, as it goes over the wire."""
    return request(f"/v2/models/{MODEL}/infer", *binary_body())


def pair(service: Service, seconds: float) -> LoadPair:
    """Both turns, one after the other, in an order that is drawn."""
    found: dict[bool, Measured] = {}
    rate = 0.0
    for explaining in random.sample((True, False), 2):
        if not explaining:
            found[False] = _users(service, seconds)
            continue
        message = request(f"/v2/models/{MODEL}/explain", *binary_body())
        with ThreadPoolExecutor(1) as callers:
            told = callers.submit(measure, service.port, message, connections=EXPLAINING, seconds=seconds + 2)
            time.sleep(1.0)  # they have begun, and end after the users
            found[True] = _users(service, seconds)
        refuse_failed([told.result()])
        rate = told.result().requests_per_s
    refuse_failed(found.values())
    return LoadPair(found[True].p99_ms, found[False].p99_ms, rate)


def _users(service: Service, seconds: float) -> Measured:
    return measure(service.port, users(), connections=CONNECTIONS, seconds=seconds, requests_per_s=USERS_A_S)


if __name__ == "__main__":
    main()
