"""Whose call a replica's engine takes next: its users' as they come, and where a thread is free a piece of an explanation."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class EngineTurns:
    """The engine's threads. A piece of an explanation begins only where no user's call wants one of them, and one at a time: so a
    call waits for one piece at most.

    Used from one event loop, but for `take_spare` and `give_back`.
    """

    def __init__(self, threads: int) -> None:
        """Must be made on that loop."""
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="engine")
        self._loop = asyncio.get_running_loop()
        # So many work with the engine at a time, the thread that explains among them.
        self._room = threading.Semaphore(threads)
        self._spare = threading.Event()
        self._spare.set()
        self.waiting = 0  # users' calls that are not done
        self.progress_s = time.monotonic()  # when the last of them was, or the first of these came

    async def of_user(self, work: Callable[[], T]) -> T:
        """Does a user's work in its turn."""
        if self.waiting == 0:
            self.progress_s = time.monotonic()
        self.waiting += 1
        if self.waiting == self._threads:
            self._spare.clear()
        try:
            return await self._loop.run_in_executor(self._executor, self._with_room, work)
        finally:
            self.waiting -= 1
            self.progress_s = time.monotonic()
            if self.waiting == self._threads - 1:
                self._spare.set()

    def take_spare(self, wait_s: float) -> bool:
        """Whether the engine is free for a piece of other work, now or within that time: then until `give_back`. Blocks. From one
        other thread, which does the piece itself: to hand it over would cost more than most pieces take."""
        if not self._spare.wait(wait_s) or not self._room.acquire(timeout=wait_s):
            return False
        if self._spare.is_set():
            return True
        self._room.release()  # a user's call came meanwhile
        return False

    def used_within(self, seconds: float) -> bool:
        """Whether users call, or did so in the last seconds. From any thread."""
        return self.waiting > 0 or time.monotonic() - self.progress_s < seconds

    def give_back(self) -> None:
        """The piece is over."""
        self._room.release()

    def _with_room(self, work: Callable[[], T]) -> T:
        with self._room:
            return work()
