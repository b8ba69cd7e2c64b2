"""A console to open in a browser, without Ray: the real gateway over a real controller, whose fleet and streams are fakes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.access.callers import CLUSTER, EVERYTHING, Caller, Grant
from cluster.access.keys import digest_of, new_key
from cluster.routing.routes import RouteTable
from cluster.watch.catalogue import REQUEST_SECONDS, REQUESTS, STREAM_LAG, STREAM_RECORDS
from cluster.watch.reports import Buckets, MetricsReport, Series
from deployments.artifacts.package import Artifact
from deployments.engines.datatypes import Array
from deployments.gateway.access.guard import Guard
from deployments.gateway.console.batch_runs import BatchLedgers
from deployments.gateway.console.console import ConsoleSettings
from deployments.gateway.console.node_loads import GpuLoad, NodeLoad
from deployments.gateway.console.nodes import NodeSeen
from deployments.gateway.console.streams import StreamOperations
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.http.callers import Callers
from deployments.gateway.repository import Repository
from deployments.gateway.server import GatewayServer
from tests.support.brain import Brain
from tests.support.gateway_fakes import PATIENT, FakeControl, FakeScorer

LOAD = NodeLoad(0.37, float(5 << 30), float(32 << 30), (GpuLoad("H200", 0.83, float(40 << 30), float(139 << 30)),))
NODE = NodeSeen("0123456789ab", "127.0.0.1", True, True, 8.0, 1.0, float(16 << 30), LOAD)


def halves(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """What versions of `ConsoleService.version` answer."""
    return {"output": np.full((len(tensors["input"]), 2), 0.5, np.float32)}


class BrainControl(FakeControl):
    """The controller of a brain; `away` makes every call raise Unreachable."""

    def __init__(self, brain: Brain) -> None:
        super().__init__(brain.controller.table)
        self.brain = brain
        self.asked = 0

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        if self.away:
            return await super().call(command, payload, caller)
        self.asked += 1
        return await asyncio.to_thread(self.brain.controller.call, command, payload, caller)


class BrainScorer(FakeScorer):
    """Follows a brain's table."""

    def __init__(self, brain: Brain) -> None:
        self.brain = brain
        super().__init__(brain.controller.table, halves)

    @property
    def table(self) -> RouteTable:  # type: ignore[override]
        return self.brain.controller.table

    @table.setter
    def table(self, _: RouteTable) -> None:
        """The brain's is followed."""


@dataclass
class ConsoleService:
    """What runs. `url` is the gateway's; `keys` are the texts of keys by name: `home` may do all. `goes_on` is
    called before each tick."""

    brain: Brain
    control: BrainControl
    server: GatewayServer
    url: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    goes_on: Callable[[], None] = lambda: None
    _sequence: int = 0

    def key(self, name: str, *grants: Grant) -> str:
        """Makes a key."""
        key = new_key()
        told = [grant.model_dump(mode="json") for grant in grants or EVERYTHING]
        self.brain.call("key.create", name=name, id=key.id, digest=key.digest, grants=told)
        self.brain.controller.tick()
        return key.text

    def home_key(self) -> str:
        """The key of who started it."""
        key = new_key()
        self.brain.call("key.home", id=key.id, digest=digest_of(key.text))
        self.brain.controller.tick()
        return key.text

    def built(self, model: str, artifact: Artifact) -> None:
        """Registers a real one as the next version."""
        about = {"engine": artifact.manifest.engine, "signature": artifact.manifest.signature.model_dump(mode="json")}
        self.brain.call("version.register", model=model, artifact_uri=artifact.uri, digest=artifact.digest, **about)

    def version(self, model: str, number: int) -> None:
        """Registers the next version of a model."""
        signature = {
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}],
        }
        told = {"artifact_uri": f"file:///artifacts/{model}/{number}", "digest": f"sha256-{model}-{number}", "engine": "onnx"}
        self.brain.call("version.register", model=model, signature=signature, **told)

    def counted(self, requests: dict[str, tuple[int, int]], lag: dict[str, tuple[int, int]]) -> None:
        """Since the last time: requests by model (how many, how many of them failed), and by stream (records, its lag now)."""
        self._sequence += 1
        counters: dict[Series, float] = {}
        histograms = {}
        for model, (all_of_them, failed) in requests.items():
            counters[Series(REQUESTS.name, (model, "1", "http", "ok"))] = all_of_them - failed
            counters[Series(REQUESTS.name, (model, "1", "http", "failed"))] = failed
            counts = [0] * (len(REQUEST_SECONDS.bounds) + 1)
            counts[3], counts[5] = all_of_them - all_of_them // 40, all_of_them // 40
            histograms[Series(REQUEST_SECONDS.name, (model, "1", "http"))] = Buckets(tuple(counts), 0.005 * all_of_them)
        for stream, (records, _) in lag.items():
            counters[Series(STREAM_RECORDS.name, (stream, "scored"))] = records
        gauges = {Series(STREAM_LAG.name, (stream,)): float(behind) for stream, (_, behind) in lag.items()}
        self.brain.controller.push(MetricsReport("test", self._sequence, counters, histograms, gauges))


@contextmanager
def console_service(
    prepare: Callable[[ConsoleService], None] = lambda _: None,
    *,
    visitors: bool = True,
    secret: bytes = b"shared",
    nodes: Sequence[NodeSeen] = (NODE,),
    tick_every_s: float = 0.2,
    ledgers: Callable[[], BatchLedgers] | None = None,
    streams: Callable[[BrainControl], StreamOperations] | None = None,
) -> Iterator[ConsoleService]:
    """Runs it on a free port of loopback; the controller ticks by real time. `prepare` comes before, with a clock to move.
    `streams` acts on streams."""
    brain = Brain()
    brain.clock.now_s = time.time() - 400
    control, scorer = BrainControl(brain), BrainScorer(brain)
    guard = Guard(scorer, visitors=visitors)
    acting = None if streams is None else streams(control)
    settings = ConsoleSettings(secret, lambda: tuple(nodes), streams=acting, ledgers=ledgers)
    loop = asyncio.new_event_loop()

    async def made() -> GatewayServer:
        repository = Repository(scorer, control)
        return GatewayServer(DataPlane(scorer, PATIENT), repository, control, guard, "0.1.0", Callers.to(), None, settings)

    thread = threading.Thread(target=loop.run_forever, name="gateway", daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(made(), loop).result(30)
    service = ConsoleService(brain, control, server)
    brain.controller.tick()
    prepare(service)
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(tick_every_s):
            brain.clock.now_s = max(brain.clock.now_s, time.time())
            service.goes_on()
            brain.controller.tick()

    ticking = threading.Thread(target=tick, name="controller", daemon=True)
    ticking.start()
    port, _ = asyncio.run_coroutine_threadsafe(server.listen("127.0.0.1", 0, None), loop).result(30)
    service.url = f"http://127.0.0.1:{port}"
    try:
        yield service
    finally:
        stop.set()
        ticking.join()
        asyncio.run_coroutine_threadsafe(server.stop(1.0), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
