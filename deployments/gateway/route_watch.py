"""The newest route table, kept while the controller is away: what the gateway says of its models comes from here."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from cluster.commands import ControlPlane
from cluster.errors import NotFound, Unreachable
from cluster.routes import EMPTY, Route, RouteTable

POLL_S = 30.0
RETRY_S = 1.0

log = logging.getLogger(__name__)


class RouteWatch:
    """Follows the controller's table. Call `start` before `table`, and `stop` at the end; both once."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        self._task: asyncio.Task[None] | None = None
        self.table: RouteTable = EMPTY

    async def start(self) -> None:
        """Begins to follow; does not wait for the first table."""
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """Ends following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def route(self, model: str) -> Route:
        """The model's route. Raises NotFound."""
        route = self.table.routes.get(model)
        if route is None:
            served = ", ".join(sorted(self.table.routes)) or "none"
            raise NotFound(f"no model {model[:80]!r} is served", where="model", remedy=f"served now: {served}")
        return route

    async def _follow(self) -> None:
        while True:
            try:
                self.table = await self._control.routes(self.table.number, POLL_S)
            except Unreachable as error:
                log.warning("keeping route table %d: %s", self.table.number, error)
                # The controller can't be awaited while it is away; this is the pace of asking again.
                await asyncio.sleep(RETRY_S)
