"""What the candidate is to score in shadow, gathered: many rows cost a call about what one does, and users wait beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass

import numpy as np

from cluster.errors import HeadraceError
from cluster.routing.routes import Route, Target
from deployments.engines.datatypes import Array
from deployments.scoring.rows import Answer
from deployments.scoring.senders import Senders, joined_senders

EVERY_S = 0.1
WAITING_BYTES_AT_MOST = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shadowed:
    """Rows that stable has answered, copied, what it said, and who sent them; the candidate is to score them too."""

    route: Route
    candidate: Target
    tensors: Mapping[str, Array]
    stable: Answer
    senders: Senders | None = None

    @property
    def rows(self) -> int:
        """How many."""
        return len(next(iter(self.tensors.values())))

    @property
    def size_bytes(self) -> int:
        """How much memory they hold."""
        return sum(array.nbytes for array in (*self.tensors.values(), *self.stable.outputs.values()))

    def fits(self, other: Shadowed) -> bool:
        """Whether both can go in one call."""
        return (
            self.route is other.route
            and _shapes(self.tensors) == _shapes(other.tensors)
            and _shapes(self.stable.outputs) == _shapes(other.stable.outputs)
        )


class Shadows:
    """Hands what was gathered to `score`, one call at a time. Used from one event loop.

    What comes while too much waits is left out (`room` says so beforehand): a sample is as good.
    """

    def __init__(self, score: Callable[[Shadowed], Awaitable[None]]) -> None:
        self._score = score
        self._waiting: list[Shadowed] = []
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What scores them now, to be cancelled at the end."""
        return self._task

    @property
    def room(self) -> bool:
        """Whether more may come."""
        return self._waiting_bytes < WAITING_BYTES_AT_MOST

    def add(self, shadowed: Shadowed) -> None:
        """Returns at once."""
        self._waiting.append(shadowed)
        self._waiting_bytes += shadowed.size_bytes
        if self._task is None or self._task.done():
            # In a context of its own: what nobody waits for is in nobody's trace.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(EVERY_S)
            await self._score(self._next())

    def _next(self) -> Shadowed:
        """As many as go in one call, from the oldest on."""
        first, chosen, rows = self._waiting[0], list[Shadowed](), 0
        for each in self._waiting:
            if chosen and (not first.fits(each) or rows + each.rows > first.route.serving.max_batch_rows):
                break
            chosen.append(each)
            rows += each.rows
        del self._waiting[: len(chosen)]
        self._waiting_bytes -= sum(each.size_bytes for each in chosen)
        return _joined(chosen)


def _joined(parts: list[Shadowed]) -> Shadowed:
    first = parts[0]
    if len(parts) == 1:
        return first
    failed: dict[int, HeadraceError] = {}
    begin = 0
    for part in parts:
        failed |= {begin + row: error for row, error in part.stable.failed.items()}
        begin += part.rows
    tensors = {name: np.concatenate([part.tensors[name] for part in parts]) for name in first.tensors}
    outputs = {name: np.concatenate([part.stable.outputs[name] for part in parts]) for name in first.stable.outputs}
    senders = joined_senders([(part.senders, part.rows) for part in parts])
    return Shadowed(first.route, first.candidate, tensors, Answer(outputs, failed), senders)


def _shapes(tensors: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in tensors.items()}
