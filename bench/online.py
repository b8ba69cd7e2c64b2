"""`python -m bench.online [--quick] [--json]`: the gateway against an echo behind the same proxy, with a canary under way.

The limit reads the same body and answers as many bytes, and does nothing else; for gRPC it is a bare grpc.aio server. Embedded
JSON is also compared with a plain deployment of the same network behind Serve's own proxy, and with MLServer. Both take turns;
figures are medians. Processor time is what a request takes of the gateway (of the echo, as reference) and of its HAProxy. Where
`wrk` is installed, all is measured with it as well: it leaves more of the machine to the gateway than the load in Python does.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Protocol

from rich.console import Console

from bench import grpc_load, wrk_load
from bench.echo import PATH as ECHO_PATH
from bench.figures import Figure, show
from bench.http_load import Measured, measure, refuse_failed, request
from bench.online_rivals import mlserver, plain_serve
from bench.processor_time import servers_behind
from bench.service import Service, binary_body, grpc_message, json_body, running
from headrace.local.ports import free_port

CANARY = {"steps": [{"weight": 10, "bake_s": 86_400}, {"weight": 100}], "deadline_s": 86_400}
GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"
TRANSPORTS = ("embedded", "remote")


class Load(Protocol):
    """What asks, as fast as answers come."""

    def __call__(self, port: int, message: bytes, /, *, connections: int, seconds: float) -> Measured:
        """What it saw."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: under five minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    rounds, seconds = (3, 3.0) if options.quick else (7, 12.0)
    screen = Console(stderr=True)
    figures: list[Figure] = []
    with running() as service:
        for transport in TRANSPORTS:
            model = f"bench-{transport}"
            begin_canary(service, model, transport)
            paths = {"json": (json_body(), {"content-type": "application/json"}), "binary": binary_body()}
            for form, (body, headers) in paths.items():
                message = request(f"/v2/models/{model}/infer", body, headers)
                ours, limit = turns(service, message, body, rounds, seconds, options.connections)
                screen.print(f"{form} {transport}: {_rates(ours)}; echo: {_rates(limit)}")
                figures += compared(f"online.{form}.{transport}", ours, limit)
                if wrk_load.installed():
                    ours, limit = turns(service, message, body, rounds, seconds, options.connections, by=wrk_load.measure)
                    screen.print(f"{form} {transport} by wrk: {_rates(ours)}; echo: {_rates(limit)}")
                    figures += compared(f"online.{form}.{transport}.wrk", ours, limit)
            ours, limit = grpc_turns(service, model, rounds, seconds, options.connections)
            screen.print(f"grpc {transport}: {_rates(ours)}; echo: {_rates(limit)}")
            figures += compared(f"online.grpc.{transport}", ours, limit)
        for rival in ("plain_serve", "mlserver"):
            try:
                ours, theirs = rival_turns(service, rival, rounds, seconds, options.connections)
            except (OSError, subprocess.CalledProcessError, RuntimeError, TimeoutError) as error:
                screen.print(f"{rival}: not to be had here: {error}")
                continue
            screen.print(f"json embedded: {_rates(ours)}; {rival}: {_rates(theirs)}")
            figures += compared(f"online.json.embedded.{rival}", ours, theirs)
    show(figures, as_json=options.json)


def begin_canary(service: Service, model: str, transport: str) -> None:
    """Version 1 is stable, version 2 has 10 % of the keys."""
    serving = {"transport": transport, "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
    service.apply(model, serving, CANARY)
    service.rollout_at(model, service.register(model, 128), "promoted")
    service.rollout_at(model, service.register(model, 136), "canary")


def turns(
    service: Service, message: bytes, body: bytes, rounds: int, seconds: float, connections: int, by: Load = measure
) -> tuple[list[Measured], list[Measured]]:
    """Ours and the echo in turn, after one round that does not count."""
    size = measure(service.port, message, connections=connections, seconds=seconds / 2).answer_bytes
    echo = request(ECHO_PATH, body, {"answer-bytes": str(size)})
    measure(service.echo_port, echo, connections=connections, seconds=seconds / 2)
    both = ((service.port, message), (service.echo_port, echo))
    loads = (partial(by, port, each, connections=connections, seconds=seconds) for port, each in both)
    return _in_turn(rounds, *(partial(_with_cost, port, load, seconds) for (port, _), load in zip(both, loads, strict=True)))


def grpc_turns(service: Service, model: str, rounds: int, seconds: float, calls: int) -> tuple[list[Measured], list[Measured]]:
    """As `turns`, for gRPC with raw tensors. The echo has no HAProxy: its processes are not looked at."""
    address, message = f"127.0.0.1:{service.grpc_port}", grpc_message(model)
    size = grpc_load.measure(address, GRPC_METHOD, message, calls=calls, seconds=seconds / 2).answer_bytes
    with grpc_load.echoing(free_port(), size) as echo:
        grpc_load.measure(echo, GRPC_METHOD, message, calls=calls, seconds=seconds / 2)
        own, other = (
            partial(grpc_load.measure, at, GRPC_METHOD, message, calls=calls, seconds=seconds) for at in (address, echo)
        )
        return _in_turn(rounds, partial(_with_cost, service.port, own, seconds), other)


def rival_turns(
    service: Service, rival: str, rounds: int, seconds: float, connections: int
) -> tuple[list[Measured], list[Measured]]:
    """Embedded JSON, and a rival with the network of its stable version, in turn. The rival runs for this alone."""
    model = service.folder / "bench-embedded-128" / "model.onnx"
    body, headers = json_body(), {"content-type": "application/json"}
    started: AbstractContextManager[int]
    if rival == "mlserver":
        started, path = mlserver(model, service.folder / rival), "/v2/models/bench/infer"
    else:
        started, path = plain_serve(model), "/plain"
    own, other = (request(where, body, headers) for where in ("/v2/models/bench-embedded/infer", path))
    with started as port:
        measure(port, other, connections=connections, seconds=seconds / 2)
        both = ((service.port, own), (port, other))
        return _in_turn(rounds, *(partial(measure, *each, connections=connections, seconds=seconds) for each in both))


def _in_turn(
    rounds: int, measure_ours: Callable[[], Measured], measure_limit: Callable[[], Measured]
) -> tuple[list[Measured], list[Measured]]:
    ours, limit = [], []
    for _ in range(rounds):
        ours.append(measure_ours())
        limit.append(measure_limit())
    refuse_failed((*ours, *limit))
    return ours, limit


def _with_cost(http_port: int, load: Callable[[], Measured], seconds: float) -> Measured:
    servers = servers_behind(http_port)
    before = servers.used_us()
    measured = load()
    requests = measured.requests_per_s * seconds
    return replace(measured, processor_us={name: (used - before[name]) / requests for name, used in servers.used_us().items()})


def compared(name: str, ours: list[Measured], limit: list[Measured]) -> list[Figure]:
    """Requests per second, p99 and processor time, ours against the limit."""
    return [
        Figure(name, _median(ours, "requests_per_s"), _median(limit, "requests_per_s"), "requests/s"),
        Figure(f"{name}.p99", _median(ours, "p99_ms"), _median(limit, "p99_ms"), "ms (lower is better)"),
        *(
            Figure(f"{name}.processor.{process}", _cost(ours, process), _cost(limit, process), "us a request (lower is better)")
            for process in ours[0].processor_us
        ),
    ]


def _median(measured: list[Measured], field: str) -> float:
    return statistics.median(getattr(one, field) for one in measured)


def _cost(measured: list[Measured], process: str) -> float:
    """NaN where it was not measured."""
    return statistics.median(one.processor_us.get(process, math.nan) for one in measured)


def _rates(measured: list[Measured]) -> str:
    return ", ".join(f"{one.requests_per_s:,.0f}" for one in measured) + " requests/s"


if __name__ == "__main__":
    main()
