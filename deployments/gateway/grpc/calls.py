"""The calls that are under way on one gRPC server, and whether it takes more."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from cluster.errors import Unreachable


class Calls:
    """Entered by each call. `ending` is set when the server begins to stop: from then on none may enter."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> Self:
        """Raises Unreachable where the server is about to stop."""
        if self.ending.is_set():
            raise Unreachable("it is ending", where="gateway", remedy="call again")
        self._count += 1
        self._none.clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._count -= 1
        if self._count == 0:
            self._none.set()

    async def ended(self, within_s: float) -> None:
        """Returns once none is under way, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._none.wait()
