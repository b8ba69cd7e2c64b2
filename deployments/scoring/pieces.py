"""Large calls are fed to a version piece by piece, so that one caller never fills its queue."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from cluster.fleet.serving import ScalingMode, Serving, TransportKind

T = TypeVar("T")


def bearable_calls(serving: Serving, replicas: int | None = None) -> int:
    """How many calls at a time so many replicas may have; without a number as many as make Serve start the last of them."""
    if serving.transport is TransportKind.EMBEDDED:
        return serving.threads
    scaling = serving.scaling
    if replicas is None:
        replicas = scaling.max if scaling.mode is ScalingMode.AUTO else scaling.replicas
    return max(1, math.ceil(min(scaling.target_ongoing, serving.max_ongoing) * replicas))


async def fed(asks: Sequence[Callable[[], Awaitable[T]]], room: asyncio.Semaphore, most: int) -> list[T]:
    """Asks everything in turn, at most `most` at a time and as far as there is `room`, which several callers share. Once one
    raises, no more is asked, and the error is raised when what was asked has ended: nothing works on the caller's arrays then."""
    answers: dict[int, T] = {}
    todo = iter(enumerate(asks))

    async def work() -> None:
        for place, ask in todo:
            async with room:
                answers[place] = await ask()

    workers = [asyncio.ensure_future(work()) for _ in range(min(most, len(asks)))]
    try:
        await asyncio.gather(*workers)
    except BaseException:
        for _ in todo:  # the others end with what they ask now
            continue
        await asyncio.gather(*workers, return_exceptions=True)
        raise
    return [answers[place] for place in range(len(asks))]
