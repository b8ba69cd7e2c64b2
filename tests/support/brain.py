"""A controller over fakes, and what its tests do with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cluster.audit.checkpoint import AuditSigner
from cluster.controller import Controller, Point
from cluster.errors import HeadraceError, Unreachable
from cluster.ports import AppState, AppStatus, FeedSpec, FeedState
from cluster.rollout.evidence import Counts, EvidenceBatch, EvidenceKey
from cluster.store.memory import MemoryStore
from cluster.store.port import Store
from consumers.batch.schedule.fake_jobs import FakeJobs
from deployments.serving.fake_fleet import FakeFleet
from tests.support.clock import Clock

SIGNATURE: dict[str, Any] = {
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}],
}
_KEY = Ed25519PrivateKey.generate()
SIGNER = AuditSigner("brain", _KEY.public_key().public_bytes_raw(), _KEY.sign)
SURE: dict[str, Any] = {
    "steps": [{"weight": 10, "bake_s": 5}, {"weight": 100, "bake_s": 5}],
    "deadline_s": 100,
    "keep_warm_s": 60,
}


class FakeStreams:
    """Feeds in memory: what is started runs at once, but for those `broken`, which fail to start, and those `refused`.

    `away` makes them unreachable. `workers` are what those of a stream say of themselves.
    """

    def __init__(self) -> None:
        self.running: dict[str, FeedSpec] = {}
        self.failed: dict[str, str] = {}
        self.broken: dict[str, str] = {}
        self.refused: dict[str, HeadraceError] = {}
        self.workers: dict[str, tuple[dict[str, Any], ...]] = {}
        self.started: list[str] = []
        self.away = False

    def start(self, feed: FeedSpec) -> None:
        self.started.append(feed.name)
        if feed.name in self.refused:
            raise self.refused[feed.name]
        self.running[feed.name] = feed
        self.failed = {name: why for name, why in self.failed.items() if name != feed.name}
        if feed.name in self.broken:
            self.failed[feed.name] = self.broken[feed.name]

    def state(self) -> Mapping[str, FeedState]:
        if self.away:
            raise Unreachable("the streams are away", where="fake streams", remedy="bring them back")
        running = self.running.items()
        return {name: FeedState(name, feed.digest, self._app(feed), self.workers.get(name, ())) for name, feed in running}

    def _app(self, feed: FeedSpec) -> AppState:
        if feed.name in self.failed:
            return AppState(feed.app, AppStatus.FAILED, 0, 1, self.failed[feed.name])
        return AppState(feed.app, AppStatus.READY, 1, 1)

    def stop(self, name: str) -> None:
        self.running.pop(name, None)


class Brain:
    """A controller with its world. `revive` replaces the controller by a new one over the same store and world."""

    def __init__(self, store: Store | None = None, fleet: FakeFleet | None = None) -> None:
        self.clock = Clock()
        self.store: Store = store if store is not None else MemoryStore()
        self.fleet = fleet if fleet is not None else FakeFleet()
        self.streams = FakeStreams()
        self.jobs = FakeJobs()
        self.sequence = 0
        self.revive()

    def revive(
        self, hook: Callable[[Point], None] = lambda _: None, *, look_every_s: float = 0.0, signer: AuditSigner = SIGNER
    ) -> None:
        world = self.fleet, self.streams, self.jobs
        self.controller = Controller(self.store, *world, self.clock, hook, look_every_s=look_every_s, audit_signer=signer)

    def call(self, command: str, **payload: Any) -> dict[str, Any]:
        return self.controller.call(command, payload)

    def tick(self, times: int = 1, *, each_s: float = 0.5) -> None:
        for _ in range(times):
            self.clock.now_s += each_s
            self.controller.tick()

    def build(self, version: int, **signature: Any) -> dict[str, Any]:
        """Registers the version of that number of the model `digits`."""
        answer = self.call(
            "version.register",
            model="digits",
            artifact_uri=f"file:///artifacts/{version}",
            digest=f"sha256-{version}",
            engine="onnx",
            signature=signature or SIGNATURE,
        )
        assert answer["version"] == version
        return answer

    def apply(self, plan: dict[str, Any] | None = None, serving: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        document = {"name": "digits", "rollout": plan if plan is not None else SURE, "serving": serving or {}}
        return self.call("apply", models=[document], **more)

    def serve_first(self, plan: dict[str, Any] | None = None, serving: dict[str, Any] | None = None) -> None:
        """Version 1 is stable."""
        self.build(1)
        self.apply(plan, serving)
        self.tick(4)
        assert self.controller.table.routes["digits"].stable == 1

    def score(self, version: int, *, scorer: str = "s1", caller: str = "", **counts: int) -> None:
        """A scorer tells what it saw of the version in the current stage: of all, or of what the caller sent."""
        stage = self.controller.table.routes["digits"].stage
        self.sequence += 1
        batch = EvidenceBatch(scorer, self.sequence, {EvidenceKey("digits", stage, version, caller): Counts(**counts)})
        self.controller.push(batch)

    def rollout(self) -> dict[str, Any]:
        rollout: dict[str, Any] = self.call("rollout.status", model="digits")["rollout"]
        return rollout
