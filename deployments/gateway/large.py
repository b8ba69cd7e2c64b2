"""What takes long for one large request is done beside the event loop: the small ones of everybody else go on."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

LARGE_BYTES = 1 << 20  # on the loop, so much takes 3 ms at most to inflate, to read or to write
THREADS = 2

P = ParamSpec("P")
T = TypeVar("T")


class LargeWork:
    """A few threads. What waits for one is given up with its caller; what has begun ends by itself."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="gateway-large")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(work, *args, **kwargs))

    def close(self) -> None:
        """Takes no more work. Does not wait."""
        self._threads.shutdown(wait=False, cancel_futures=True)
