"""Whose call a replica's engine takes next: its users' as they come, and where a thread is free a piece of an explanation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class EngineTurns:
    """The engine's threads. A piece of an explanation begins only where no user's call wants the thread, and one at a time: so a
    call waits for one piece at most.

    Used from one event loop, but for `in_spare_time`.
    """

    def __init__(self, threads: int) -> None:
        """Must be made on that loop."""
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="engine")
        self._loop = asyncio.get_running_loop()
        self._piece: Callable[[], None] | None = None
        self.waiting = 0  # users' calls that are not done
        self.progress_s = time.monotonic()  # when the last of them was, or the first of these came

    async def of_user(self, work: Callable[[], T]) -> T:
        """Does a user's work in its turn."""
        if self.waiting == 0:
            self.progress_s = time.monotonic()
        self.waiting += 1
        try:
            return await self._loop.run_in_executor(self._executor, work)
        finally:
            self.waiting -= 1
            self.progress_s = time.monotonic()
            if self._piece is not None:
                self._begin_piece()

    def in_spare_time(self, work: Callable[[], T]) -> Future[T]:
        """Does a piece of other work once a thread is free. From one other thread, which asks again only when this is done, or
        cancelled."""
        told: Future[T] = Future()

        def piece() -> None:
            if told.set_running_or_notify_cancel():
                try:
                    told.set_result(work())
                except BaseException as error:  # noqa: BLE001 (whoever waits is told)
                    told.set_exception(error)

        self._loop.call_soon_threadsafe(self._add, piece)
        return told

    def _add(self, piece: Callable[[], None]) -> None:
        self._piece = piece
        self._begin_piece()

    def _begin_piece(self) -> None:
        if self._piece is not None and self.waiting < self._threads:
            piece, self._piece = self._piece, None
            self._executor.submit(piece)
