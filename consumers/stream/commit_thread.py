"""One commit after the other, on a thread of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future


class CommitThread:
    """A client may hang in a commit for ever, so the thread is a daemon: one left behind keeps no process from ending.

    (`concurrent.futures` waits for its threads at exit.)
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="stream-commit", daemon=True).start()

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Starts it once all earlier ones are done."""
        future: Future[None] = Future()
        self._work.put((future, work))
        return future

    def end(self) -> None:
        """Ends the thread after what it does now. Does not wait."""
        self._work.put(None)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, work = item
            try:
                work()
            except BaseException as error:  # noqa: BLE001  # the future carries it to who waits
                future.set_exception(error)
            else:
                future.set_result(None)
            del item, future, work  # they hold the records
