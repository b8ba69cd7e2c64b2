"""Waiting until something is so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def until(what: Callable[[], bool], limit_s: float, *, every_s: float = 0.05, trouble: tuple[type[Exception], ...] = ()) -> None:
    """Returns as soon as `what` is true. What it raises of `trouble` is waited out, and raised at the limit.

    Raises AssertionError where it was not so within `limit_s` seconds.
    """
    end_s = time.monotonic() + limit_s
    while True:
        try:
            if what():
                return
        except trouble:
            if time.monotonic() > end_s:
                raise
        assert time.monotonic() < end_s, f"not so within {limit_s:g} s"
        time.sleep(every_s)


async def within(limit_s: float, what: Awaitable[T]) -> T:
    """Raises TimeoutError where it takes longer."""
    async with asyncio.timeout(limit_s):
        return await what
