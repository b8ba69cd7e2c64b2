"""`python -m bench.nodes [--quick] [--json]`: how calls to a version that sleeps grow with nodes: 1, 2 and 4 of them.

Ray nodes of one machine, with two replicas each, called by one scorer's transport, as a gateway's. The reference is so many
times what one node answers: a ratio of 1 is linear.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from bench.batch_data import Case, write_model
from bench.figures import Figure, show
from bench.service import ENVIRONMENT, awaited
from cluster.fleet.serving import Resources, Scaling, ScalingMode, Serving
from cluster.ports import AppState, AppStatus
from cluster.routing.routes import Target
from cluster.versions import Version, VersionId

if TYPE_CHECKING:
    from deployments.transport.remote import RemoteTransport

NODES = (1, 2, 4)
REPLICAS_A_NODE = 2
SLEEP_S, SETUP = 0.1, "bench.sleeping.set_up"
CALLERS_A_REPLICA = 3
WIDTH, CLASSES = 16, 10
LIMIT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="shorter: some minutes all the same, since nodes start one at a time"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    seconds = 5.0 if options.quick else 20.0
    screen = Console(stderr=True)
    figures: list[Figure] = []
    with head() as address:
        one = 0.0
        nodes = 0
        with workers(address) as add:
            for wanted in NODES:
                while nodes < wanted:
                    add()
                    nodes += 1
                rate = asyncio.run(called(wanted, seconds))
                one = one or rate
                screen.print(f"{wanted} nodes: {rate:.1f} calls/s, at most {REPLICAS_A_NODE * wanted / SLEEP_S:.0f}")
                figures.append(Figure(f"nodes.online.{wanted}", rate, wanted * one, "calls/s (reference: linear)"))
    show(figures, as_json=options.json)


@contextmanager
def head() -> Iterator[str]:
    """A head that scores nothing; its address."""
    os.environ.update(ENVIRONMENT)
    os.environ |= {"__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": SETUP, "PYTHONPATH": str(Path(__file__).parents[1])}
    import ray
    from ray import serve

    folder = Path(tempfile.mkdtemp(prefix="hb-"))
    try:
        joined = ray.init(
            address="local",
            namespace="headrace",
            num_cpus=0,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder / "r"),
            object_store_memory=100_000_000,
            log_to_driver=False,
            logging_level="ERROR",
        )
        serve.start(proxy_location="Disabled")
        yield str(joined.address_info["gcs_address"])
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def workers(address: str) -> Iterator[Callable[[], None]]:
    """What adds a node, each with room for its replicas; all end in the end."""
    import psutil
    import ray

    started: list[subprocess.Popen[bytes]] = []

    def add() -> None:
        before = sum(node["Alive"] for node in ray.nodes())
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            *(f"--address={address}", "--node-ip-address=127.0.0.1", f"--num-cpus={REPLICAS_A_NODE}"),
            *("--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
            "--include-log-monitor=false",
        ]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        awaited(lambda: True if sum(node["Alive"] for node in ray.nodes()) > before else None)

    try:
        yield add
    finally:
        for process in started:
            for each in (*psutil.Process(process.pid).children(recursive=True), process):
                each.kill()
            process.wait()


async def called(nodes: int, seconds: float) -> float:
    """Calls answered a second by a version of its own that has two replicas a node."""
    from deployments.serving.fleet import ServeFleet  # imports Ray, whose variables are set by now
    from deployments.transport.remote import RemoteTransport

    folder = Path(tempfile.mkdtemp(prefix="hm-"))
    pinned = write_model(Case("nodes", files=0, rows_a_file=0, width=WIDTH, layers=(16, CLASSES)), folder)
    replicas = REPLICAS_A_NODE * nodes
    scaling = Scaling(mode=ScalingMode.MANUAL, replicas=replicas)
    serving = Serving(resources=Resources(cpus=1), scaling=scaling, max_ongoing=2 * CALLERS_A_REPLICA)
    identity = VersionId("sleeper", nodes)
    version = Version(identity, pinned.artifact_uri, pinned.digest, "onnx", pinned.signature, created_s=0.0)
    fleet, transport = ServeFleet(), RemoteTransport()
    fleet.deploy(version, serving, replicas)
    try:
        awaited(lambda: True if _is_ready(fleet.state().get(identity.app), replicas) else None)
        target = Target(nodes, identity.app, pinned.artifact_uri, pinned.digest, "onnx", pinned.signature)
        return await _rate(transport, target, CALLERS_A_REPLICA * replicas, seconds)
    finally:
        await transport.close()
        fleet.retire(identity.app)
        awaited(lambda: True if identity.app not in fleet.state() else None)
        shutil.rmtree(folder, ignore_errors=True)


def _is_ready(app: AppState | None, replicas: int) -> bool:
    return app is not None and app.status is AppStatus.READY and app.replicas == replicas


async def _rate(transport: RemoteTransport, target: Target, callers: int, seconds: float) -> float:
    """Of so many callers, each with one call under way; the first calls, which connect, are not counted."""
    row = np.zeros((1, WIDTH), np.float32)
    counted, counting, stop = 0, False, False

    async def call() -> None:
        nonlocal counted
        while not stop:
            scored = await transport.score(target, {"x": row}, LIMIT_S)
            if scored.failed:
                raise SystemExit(f"a call failed: {scored.failed}")
            counted += counting

    calls = [asyncio.create_task(call()) for _ in range(callers)]
    await asyncio.sleep(3.0)
    counting, begun = True, time.perf_counter()
    await asyncio.sleep(seconds)
    rate = counted / (time.perf_counter() - begun)
    stop = True
    await asyncio.gather(*calls)
    return rate


if __name__ == "__main__":
    main()
