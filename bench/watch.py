"""`python -m bench.watch [--quick] [--json]`: a model whose traffic is kept in part beside one of which nothing is, one gateway.

Both serve the same network, embedded, and take turns, pair by pair; figures are medians, the ratio is what is left of the rate.
Metrics are counted of both: what those cost is seen by running `bench.online` of two releases in turn.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from bench import grpc_load
from bench.access import compared
from bench.figures import Figure, show
from bench.http_load import measure, request
from bench.online import GRPC_METHOD
from bench.service import Service, binary_body, grpc_message, json_body, running
from cluster.commands.documents import Apply, ModelDocument

KEPT, PLAIN = "bench-kept", "bench-plain"
SAMPLE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter rounds: three minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    rounds, seconds = (5, 4.0) if options.quick else (9, 10.0)
    screen = Console(stderr=True)
    figures: list[Figure] = []
    with running() as service:
        prepare(service)
        for form, (body, headers) in {
            "json": (json_body(), {"content-type": "application/json"}),
            "binary": binary_body(),
        }.items():
            messages = [request(f"/v2/models/{model}/infer", body, headers) for model in (KEPT, PLAIN)]
            pairs = [
                tuple(measure(service.port, message, connections=32, seconds=seconds) for message in messages)
                for _ in range(rounds + 1)
            ]
            figures += compared(screen, f"watch.payloads.{form}", pairs[1:])
        address = f"127.0.0.1:{service.grpc_port}"
        pairs = [
            tuple(
                grpc_load.measure(address, GRPC_METHOD, grpc_message(model), calls=32, seconds=seconds) for model in (KEPT, PLAIN)
            )
            for _ in range(rounds + 1)
        ]
        figures += compared(screen, "watch.payloads.grpc", pairs[1:])
        kept = sum(1 for _ in (service.folder / "payloads").rglob("*.parquet"))
        if not kept:
            raise RuntimeError("nothing was kept: there is nothing to compare")
    show(figures, as_json=options.json)


def prepare(service: Service) -> None:
    """Both serve, and the gateway has heard of it."""
    serving = {"transport": "embedded", "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
    payloads = {"sample": SAMPLE, "parquet": {"path": str(service.folder / "payloads"), "every_s": 2}}
    for model, more in ((KEPT, {"payloads": payloads}), (PLAIN, {})):
        document = {"name": model, "serving": serving, "rollout": {"steps": [{"weight": 100}]}, **more}
        service.control.apply(Apply(models=(ModelDocument.model_validate(document),)))
        service.rollout_at(model, service.register(model, 128), "promoted")


if __name__ == "__main__":
    main()
