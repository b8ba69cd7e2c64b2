"""`python -m bench.access [--quick] [--json]`: callers who bring a key beside callers who bring nothing, on one gateway.

Both take turns, pair by pair; figures are medians, and the ratio is what a key leaves of the rate. The gateway knows 1,000 keys,
and an Access document lets everybody score. A model is embedded, so that nothing but the way in takes time.
"""

from __future__ import annotations

import argparse
import statistics

from rich.console import Console

from bench import grpc_load
from bench.figures import Figure, show
from bench.http_load import Measured, measure, refuse_failed, request
from bench.online import GRPC_METHOD
from bench.service import Service, awaited, binary_body, grpc_message, json_body, running
from cluster.access.callers import Role, grant_of
from cluster.access.keys import new_key
from cluster.access.policy import Access
from cluster.commands.documents import Apply
from cluster.commands.keys import CreateKey

MODEL = "bench-access"
KEYS = 1000
ANYONE = Access.model_validate({"grants": [{"to": {"anyone": True}, "roles": ["score", "view"], "models": ["*"]}]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter rounds: three minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    rounds, seconds = (5, 4.0) if options.quick else (9, 10.0)
    screen = Console(stderr=True)
    figures: list[Figure] = []
    with running() as service:
        key = prepare(service)
        paths = {"json": (json_body(), {"content-type": "application/json"}), "binary": binary_body()}
        for form, (body, headers) in paths.items():
            path = f"/v2/models/{MODEL}/infer"
            without = request(path, body, headers)
            with_key = request(path, body, {**headers, "authorization": f"Bearer {key}"})
            pairs = [
                tuple(measure(service.port, message, connections=32, seconds=seconds) for message in (with_key, without))
                for _ in range(rounds + 1)
            ]
            figures += compared(screen, f"access.{form}", pairs[1:])
        address, message = f"127.0.0.1:{service.grpc_port}", grpc_message(MODEL)
        pairs = [
            tuple(grpc_load.measure(address, GRPC_METHOD, message, calls=32, seconds=seconds, key=each) for each in (key, ""))
            for _ in range(rounds + 1)
        ]
        figures += compared(screen, "access.grpc", pairs[1:])
    show(figures, as_json=options.json)


def prepare(service: Service) -> str:
    """One of the keys that may score. The model serves, and the gateway has heard of all of it."""
    serving = {"transport": "embedded", "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
    service.apply(MODEL, serving, {"steps": [{"weight": 100}]})
    service.rollout_at(MODEL, service.register(MODEL, 128), "promoted")
    for number in range(KEYS):
        last = new_key()
        grants = (grant_of([Role.SCORE], MODEL),)
        service.control.create_key(CreateKey(name=f"caller-{number}", id=last.id, digest=last.digest, grants=grants))
    service.control.apply(Apply(access=ANYONE))
    told = request(f"/v2/models/{MODEL}/infer", json_body(), {"authorization": f"Bearer {last.text}"})
    awaited(lambda: measure(service.port, told, connections=1, seconds=0.2).failed == 0 or None)
    return last.text


def compared(screen: Console, name: str, pairs: list[tuple[Measured, ...]]) -> list[Figure]:
    """The medians, and that of the pairs' ratios in words."""
    refuse_failed(one for pair in pairs for one in pair)
    ratios = ", ".join(f"{keyed.requests_per_s / bare.requests_per_s:.2f}" for keyed, bare in pairs)
    screen.print(f"{name}, of each pair: {ratios}")
    keyed, bare = ([pair[side] for pair in pairs] for side in (0, 1))
    return [
        Figure(name, *(statistics.median(one.requests_per_s for one in each) for each in (keyed, bare)), "requests/s"),
        Figure(f"{name}.p99", *(statistics.median(one.p99_ms for one in each) for each in (keyed, bare)), "ms (lower is better)"),
    ]


if __name__ == "__main__":
    main()
