"""Route tables and a control plane that only hands them out, for tests of scorers."""

from __future__ import annotations

import asyncio
from typing import Any

from cluster.control_plane import Told
from cluster.errors import Unreachable
from cluster.fleet.serving import Serving
from cluster.rollout.evidence import Counts, EvidenceBatch
from cluster.routing.routes import EMPTY, Route, RouteTable, Stamp, Target
from tests.support.models import SIGNATURE

Artifact = tuple[str, str, Any]


class TableControl:
    """A ControlPlane whose table the test sets. While `away`, every call raises Unreachable."""

    def __init__(self, *routes: Route) -> None:
        self._table = RouteTable(1, {route.model: route for route in routes}) if routes else EMPTY
        self._changed = asyncio.Event()
        self.away = False
        self.batches: dict[tuple[str, int], EvidenceBatch] = {}
        self.pushes = 0

    def publish(self, *routes: Route) -> None:
        self._table = RouteTable(self._table.number + 1, {route.model: route for route in routes})
        self._changed.set()

    async def routes(self, after: Stamp, timeout_s: float) -> RouteTable:
        self._reach()
        while self._table.stamp <= after:
            self._changed.clear()
            await self._changed.wait()
            self._reach()
        return self._table

    async def push(self, told: Told) -> None:
        self.pushes += 1
        self._reach()
        if isinstance(told, EvidenceBatch):
            self.batches[told.scorer, told.sequence] = told

    async def call(self, command: str, payload: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError(f"scorers run no commands, and this one ran {command} {payload}")

    def counts(self, version: int, caller: str = "") -> Counts:
        """What was told of a version so far: all of it, or of what the caller sent."""
        told = [
            c
            for batch in self.batches.values()
            for key, c in batch.counts.items()
            if (key.version, key.caller) == (version, caller)
        ]
        return sum(told, Counts())

    def _reach(self) -> None:
        if self.away:
            raise Unreachable("the controller is away", where="test", remedy="wait")


def target(version: int, artifact: Artifact, model: str = "digits") -> Target:
    return Target(version, f"{model}--v{version}", artifact[0], artifact[1], "onnx", SIGNATURE)


def route(*targets: Target, serving: Serving | None = None, model: str = "digits", **split: Any) -> Route:
    return Route(model, targets[0].version, serving or Serving(transport="embedded"), {t.version: t for t in targets}, **split)
