"""Asking the controller from a job, which may outlive it: one that is being restarted is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from cluster.errors import Unreachable

TRIES = 60  # a controller that is being restarted is back in seconds
PAUSE_S = 1.0

Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


async def ask_patiently(call: Call, command: str, request: BaseModel, *, pause_s: float = PAUSE_S) -> dict[str, Any]:
    """The answer. Raises what the command raises, and Unreachable where the controller does not come back."""
    for _ in range(TRIES):
        try:
            return await call(command, request.model_dump())
        except Unreachable:
            await asyncio.sleep(pause_s)
    return await call(command, request.model_dump())
