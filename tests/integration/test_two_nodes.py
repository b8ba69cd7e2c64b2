"""A model on two nodes of one machine: calls go by a line to the replica on the caller's, and by Serve to the other."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray.serve._private.common import ReplicaID

from cluster.fleet.serving import Resources, Scaling, ScalingMode, Serving
from cluster.routing.routes import Target
from cluster.versions import Version, VersionId
from deployments.engines.datatypes import Array
from deployments.engines.load import load_engine
from deployments.serving import fleet as fleet_module
from deployments.serving.fleet import ServeFleet, deployment_options
from deployments.transport.lines import client
from deployments.transport.lines.client import Line
from deployments.transport.lines.frames import Broken, Reply, TimedReply
from deployments.transport.lines.serve_book import own_node
from deployments.transport.remote import RemoteTransport
from tests.conftest import RayCluster
from tests.contract.test_fleet import await_state, is_ready
from tests.support.models import INPUT, OUTPUT, SIGNATURE, mlp_artifact, rows
from tests.support.routing import target
from tests.support.waiting import until

pytestmark = [pytest.mark.proof, pytest.mark.anyio, pytest.mark.timeout(300)]
MODEL = "on-two-nodes"
SERVING = Serving(resources=Resources(cpus=0.1), scaling=Scaling(mode=ScalingMode.MANUAL, replicas=2))
LIMIT_S = 120.0


@dataclass(frozen=True)
class SecondNode:
    """A node of its own, and what started it."""

    node: str
    supervisor: psutil.Process

    def kill(self) -> None:
        """All its processes at once. Safe to repeat."""
        with suppress(psutil.NoSuchProcess):
            for process in (*self.supervisor.children(recursive=True), self.supervisor):
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture
def second_node(ray_cluster: RayCluster) -> Iterator[SecondNode]:
    """Another node of the run's Ray, on this machine."""
    here = own_node()

    def others() -> list[str]:
        return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]

    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--num-cpus=1"),
        *(f"--address={ray_cluster.address}", "--node-ip-address=127.0.0.1", "--object-store-memory=100000000"),
        *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0", "--include-log-monitor=false"),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: len(others()) == 1, LIMIT_S)
            second = SecondNode(others()[0], psutil.Process(process.pid))
            yield second
            second.kill()
        finally:
            process.terminate()
    until(lambda: not others(), LIMIT_S)


@pytest.fixture
def served(second_node: SecondNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """A version with a replica on each node."""

    def one_a_node(serving: Serving, replicas: int) -> dict[str, Any]:
        return deployment_options(serving, replicas) | {"max_replicas_per_node": 1}

    monkeypatch.setattr(fleet_module, "deployment_options", one_a_node)
    artifact = mlp_artifact(tmp_path, model=MODEL)
    version = Version(VersionId(MODEL, 1), artifact[0], artifact[1], "onnx", SIGNATURE, created_s=0.0)
    fleet = ServeFleet()
    fleet.deploy(version, SERVING, 2)
    try:
        await_state(fleet, is_ready(version.id.app))
        yield target(1, artifact, model=MODEL)
    finally:
        fleet.retire(version.id.app)
        await_state(fleet, lambda seen: version.id.app not in seen)


async def test_calls_go_by_line_to_the_replica_here_and_by_serve_to_the_other_until_its_node_dies(
    served: Target, second_node: SecondNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_line, by_serve, answered = 0, Counter[str](), [0] * 4

    class Watched(Line):
        async def score(
            self, tensors: Mapping[str, Array], timeout_s: float, *, timed: bool = False
        ) -> Reply | TimedReply | Broken:
            nonlocal by_line
            by_line += 1
            return await super().score(tensors, timeout_s, timed=timed)

    def send(replica: ReplicaID) -> None:
        by_serve[nodes[replica]] += 1
        really_send(replica)

    async def caller(number: int) -> None:
        while not stop.is_set():
            scored = await transport.score(served, {INPUT: image}, LIMIT_S)
            assert scored.failed == {}
            np.testing.assert_allclose(scored.outputs[OUTPUT], want, atol=1e-5)
            answered[number] += 1

    async def seen(what: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not what() and not any(each.done() for each in callers):
                await asyncio.sleep(0.02)

    monkeypatch.setattr(client, "Line", Watched)
    transport, image = RemoteTransport(), rows(64)
    want = load_engine(Path(served.artifact_uri)).score({INPUT: image})[OUTPUT]
    await transport.score(served, {INPUT: image}, LIMIT_S)
    router = transport._handle(served.app)._router._asyncio_router._request_router
    nodes = {replica: seen.node_id for replica, seen in router.curr_replicas.items()}
    assert set(nodes.values()) == {own_node(), second_node.node}
    really_send = router.on_send_request
    monkeypatch.setattr(router, "on_send_request", send)
    stop = asyncio.Event()
    callers = [asyncio.create_task(caller(number)) for number in range(4)]
    try:
        await seen(lambda: by_line >= 50 and by_serve[second_node.node] >= 50)
        second_node.kill()
        before = by_line
        await seen(lambda: by_line >= before + 200 and len(router.curr_replicas) == 1)
        # A call that was under way to the dead node may be sent again by Serve, as late as it hears of the death.
        since = list(answered)
        await seen(lambda: all(now >= then + 2 for now, then in zip(answered, since, strict=True)))
        before, others = by_line, by_serve.total()
        await seen(lambda: by_line >= before + 200)
        assert by_serve.total() == others  # the only replica is here
    finally:
        stop.set()
        await asyncio.gather(*callers)
        await transport.close()
