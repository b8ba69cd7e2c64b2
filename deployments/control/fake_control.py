"""The control plane in one process, over a store in memory: for tests of what asks it (scorers, gateway, streams)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from cluster.access.callers import CLUSTER, Caller
from cluster.control_plane import Told
from cluster.controller import Controller
from cluster.errors import Unreachable
from cluster.ports import Feeds, FeedSpec, FeedState, Fleet
from cluster.rollout.evidence import EvidenceBatch
from cluster.routing.routes import RouteTable, Stamp
from cluster.schedule.jobs import JobSeen, RunCommand, SubmitJob, SubmitPreflight
from cluster.store.memory import MemoryStore

_LOOK_S = 0.01


class NoFeeds:
    """Feeds where there are none."""

    def start(self, feed: FeedSpec) -> None:
        raise Unreachable("no streams run here", where=feed.name, remedy="use a real controller")

    def state(self) -> Mapping[str, FeedState]:
        return {}

    def stop(self, name: str) -> None:
        """Nothing runs."""


class NoJobs:
    """Jobs where there are none."""

    def submit(self, wanted: SubmitJob | SubmitPreflight | RunCommand) -> None:
        raise Unreachable("no jobs run here", where=wanted.job, remedy="use a real controller")

    def state(self, jobs: Collection[str]) -> Mapping[str, JobSeen]:  # noqa: ARG002 - the port's
        return {}

    def stop(self, job: str) -> None:
        """Nothing runs."""


class FakeControlPlane:
    """A ControlPlane around a Controller that is ticked by hand (`tick()`), or as often as `routes` looks.

    Set `away` to have every call raise Unreachable, as while the real controller is being restarted.
    """

    def __init__(self, fleet: Fleet, feeds: Feeds | None = None, clock: Callable[[], float] = time.time) -> None:
        self.controller = Controller(MemoryStore(), fleet, feeds if feeds is not None else NoFeeds(), NoJobs(), clock)
        self.away = False
        self.pushed: list[EvidenceBatch] = []

    def tick(self, times: int = 1) -> None:
        """Runs the controller's loop some times."""
        for _ in range(times):
            self.controller.tick()

    async def routes(self, after: Stamp, timeout_s: float) -> RouteTable:
        until = time.monotonic() + timeout_s
        while True:
            self._reach()
            self.controller.tick()
            if self.controller.table.stamp > after or time.monotonic() >= until:
                return self.controller.table
            await asyncio.sleep(_LOOK_S)

    async def push(self, told: Told) -> None:
        self._reach()
        if isinstance(told, EvidenceBatch):
            self.pushed.append(told)
        self.controller.push(told)

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        self._reach()
        return self.controller.call(command, payload, caller)

    def _reach(self) -> None:
        if self.away:
            raise Unreachable("the controller is away", where="controller", remedy="try again in a few seconds")
