"""The way to the controller from any process of the cluster: its actor, found by name."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from cluster.access.callers import CLUSTER, Caller
from cluster.control_plane import ControlPlane, Told
from cluster.errors import HeadraceError, Unreachable
from cluster.routing.changes import TableChange, with_change
from cluster.routing.routes import EMPTY, NOTHING, RouteTable, Stamp

CONTROLLER_ACTOR = "headrace-controller"
NAMESPACE = "headrace"
ANSWER_S = 15.0  # a command takes milliseconds; a store that is busy a few seconds


class ActorControlPlane:
    """A ControlPlane over the controller's actor. It is looked up at the first call, and again after any failure.

    Every call raises Unreachable where there is no such actor, where it is being restarted, and where it takes too long.
    """

    def __init__(self, name: str = CONTROLLER_ACTOR, namespace: str = NAMESPACE) -> None:
        self._name = name
        self._namespace = namespace
        self._actor: ActorHandle[Any] | None = None
        self._table = EMPTY  # the last one had: the controller tells only what has changed since

    async def routes(self, after: Stamp, timeout_s: float) -> RouteTable:
        news: RouteTable | TableChange = await self._ask("routes", timeout_s + ANSWER_S, after, timeout_s)
        table = with_change(self._table, news) if isinstance(news, TableChange) else news
        if table is None:  # somebody else asked here meanwhile
            table = await self._ask("routes", timeout_s + ANSWER_S, NOTHING, timeout_s)
        self._table = table
        return table

    async def push(self, told: Told) -> None:
        await self._ask("push", ANSWER_S, told)

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        answer: dict[str, Any] = await self._ask("call", ANSWER_S, command, payload, caller)
        return answer

    async def _ask(self, method: str, limit_s: float, *arguments: Any) -> Any:
        try:
            async with asyncio.timeout(limit_s):
                if self._actor is None:
                    self._actor = await asyncio.to_thread(ray.get_actor, self._name, self._namespace)
                answer = await getattr(self._actor, method).remote(*arguments)
        except (RayError, ValueError, TimeoutError) as error:
            self._actor = None
            raise Unreachable(
                f"the controller is away: {type(error).__name__}",
                where=self._name,
                remedy="it is restarted by itself: try again in a few seconds; `headrace up` starts it where there is none",
            ) from error
        # Errors travel as values: raised, they would come back as errors of Ray.
        if isinstance(answer, HeadraceError):
            raise answer
        return answer


def connect() -> ControlPlane:
    """The controller of the Ray that this process is connected to. Asks nothing yet."""
    return ActorControlPlane()
