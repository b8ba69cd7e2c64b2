"""`python -m bench.traces [--quick] [--json]`: 1 % traced beside nothing, online (one gateway, embedded) and on a stream.

They take turns, pair by pair: the gateway is started anew for each, the stream's worker as well. The ratio is what tracing leaves
of the rate. With tracing off nothing of it runs: what the looks for it cost is seen by running `bench.online` of two releases in
turn. The receiver takes what comes, in a process of its own, and does nothing with it.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from rich.console import Console

from bench.access import compared
from bench.figures import Figure, show
from bench.http_load import Measured, measure, request
from bench.service import Service, awaited, binary_body, json_body, running
from bench.stream import EVENTS, QUICK_EVENTS, WORDS, prepared, topic_of
from consumers.stream.spec import Format
from headrace.local.ports import free_port

MODEL = "bench-traced"
RATIO = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter rounds: ten minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    parser.add_argument("--only", default="", help="only figures whose name holds this")
    options = parser.parse_args()
    screen = Console(stderr=True)
    figures: list[Figure] = []
    with receiving() as (url, received):
        if options.only in "traces.online":
            figures += online(url, *((5, 4.0) if options.quick else (9, 10.0)), screen)
        if options.only in "traces.stream":
            figures += streams(url, 3 if options.quick else 7, screen, quick=options.quick)
        if not received.value:
            raise RuntimeError("nothing was received: there is nothing to compare")
        screen.print(f"{received.value / 1e6:,.1f} MB of spans came")
    show(figures, as_json=options.json)


def online(url: str, rounds: int, seconds: float, screen: Console) -> list[Figure]:
    """JSON and binary, each measured in every life of the gateway."""
    bodies = {"json": (json_body(), {"content-type": "application/json"}), "binary": binary_body()}
    messages = {form: request(f"/v2/models/{MODEL}/infer", body, headers) for form, (body, headers) in bodies.items()}
    pairs: dict[str, list[tuple[Measured, ...]]] = {form: [] for form in messages}
    with running() as service:
        serving = {"transport": "embedded", "resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
        service.apply(MODEL, serving, {"steps": [{"weight": 100}]})
        service.rollout_at(MODEL, service.register(MODEL, 128), "promoted")
        for _ in range(rounds + 1):
            lives = [_life(service, traces, messages, seconds) for traces in (url, "")]
            for form in messages:
                pairs[form].append(tuple(life[form] for life in lives))
    return [figure for form, found in pairs.items() for figure in compared(screen, f"traces.online.{form}", found[1:])]


def _life(service: Service, traces: str, messages: dict[str, bytes], seconds: float) -> dict[str, Measured]:
    from ray import serve

    from deployments.gateway.deployment import APP, GatewaySettings, start_gateway
    from deployments.observe.traces.settings import TraceSettings

    serve.delete(APP)
    settings = GatewaySettings(http_port=service.port, grpc_port=service.grpc_port)
    start_gateway(replace(settings, traces=TraceSettings(traces, RATIO)) if traces else settings)
    warm = next(iter(messages.values()))
    awaited(lambda: measure(service.port, warm, connections=1, seconds=0.2).failed == 0 or None)
    return {form: measure(service.port, message, connections=32, seconds=seconds) for form, message in messages.items()}


def streams(url: str, rounds: int, screen: Console, *, quick: bool) -> list[Figure]:
    """A worker with engines of its own, JSON and binary, exactly once."""
    topics: dict[Format, str] = {}
    with prepared(QUICK_EVENTS if quick else EVENTS, rounds, screen) as bench:
        bench.traces = url
        return [
            bench.turns(f"traces.stream.{word}", "traced", "ours", topic_of(bench, topics, format_), format_)
            for format_, word in WORDS.items()
        ]


@contextmanager
def receiving() -> Iterator[tuple[str, Any]]:
    """Where spans may be sent, and how many bytes came."""
    context, port = multiprocessing.get_context("spawn"), free_port()
    received = context.Value("L", 0)
    process = context.Process(target=receive, args=(port, received), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port}", received
    finally:
        process.terminate()
        process.join()


def receive(port: int, received: Synchronized[int]) -> None:
    """Until the process is ended."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["content-length"])
            self.rfile.read(size)
            with received.get_lock():
                received.value += size
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """It says nothing."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
