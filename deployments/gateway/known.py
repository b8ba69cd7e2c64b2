"""Which models there are, served or not: asked of the controller where the route table can't tell."""

from __future__ import annotations

import asyncio
import time

from cluster.control_plane import ControlPlane
from cluster.errors import Unreachable

STATUS_TIMEOUT_S = 2.0
GOOD_FOR_S = 1.0  # callers that wait for a model, or look for one that never was, ask again and again


class KnownModels:
    """The names of models that have a version. Used from one event loop."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        self._names: frozenset[str] = frozenset()
        self._asked_s = float("-inf")
        self._asking = asyncio.Lock()

    async def names(self) -> frozenset[str]:
        """As of now. Raises Unreachable."""
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                status = await self._control.call("status", {})
        except TimeoutError:
            raise Unreachable("the controller is busy", where="controller", remedy="retry") from None
        self._names = frozenset(model["name"] for model in status["models"] if model["versions"])
        self._asked_s = time.monotonic()
        return self._names

    async def has(self, model: str) -> bool:
        """Whether the model has a version, as of a second ago at most; False while the controller is away."""
        async with self._asking:
            if time.monotonic() - self._asked_s > GOOD_FOR_S:
                try:
                    await self.names()
                except Unreachable:
                    return False
            return model in self._names
