"""One commit at a time, on a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from consumers.stream.log.port import RecordRefused, RecordTooLarge

_Work = tuple[Future[None], Callable[[], None]]


class CommitThread:
    """Used from one thread. A client may hang in a commit for ever: `leave_behind` goes on without it.

    The thread is a daemon, so one that was left behind keeps no process from ending. (`concurrent.futures` waits for its threads
    at exit.)
    """

    def __init__(self) -> None:
        self._last: Future[None] | None = None
        self._start: Future[None] | None = None
        self._work = _begin()

    @property
    def busy(self) -> bool:
        """Whether a commit is under way."""
        return any(future is not None and not future.done() for future in (self._last, self._start))

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Starts it, after what commits where partitions begin. Raises RuntimeError where another is under way."""
        if self._last is not None and not self._last.done():
            raise RuntimeError("a commit is under way")
        self._last = self._put(work)
        return self._last

    def submit_start(self, work: Callable[[], None]) -> Future[None]:
        """Commits where partitions begin, after a commit that is under way."""
        self._start = self._put(work)
        return self._start

    def _put(self, work: Callable[[], None]) -> Future[None]:
        future: Future[None] = Future()
        self._work.put((future, work))
        return future

    def leave_behind(self) -> None:
        """Forgets the commit under way, if there is one: its thread ends after it, and another takes its place."""
        if self.busy:
            self.end()
            self._work = _begin()
        self._last = self._start = None

    def end(self) -> None:
        """Ends the thread after what it does now. Does not wait."""
        self._work.put(None)


def refused(error: Exception) -> Future[None]:
    """A commit that fails before it begins."""
    future: Future[None] = Future()
    future.set_exception(error)
    return future


def record_refused(reason: str, brokers: str, *, too_large: bool) -> RecordRefused:
    """What a commit fails with of which the broker refused a record; `reason` is the broker's reason."""
    kind = RecordTooLarge if too_large else RecordRefused
    remedy = "look at what its topic takes: cleanup.policy, message.timestamp.*, max.message.bytes"
    return kind(f"the broker refuses a record: {reason}", where=brokers, remedy=remedy)


def _begin() -> queue.SimpleQueue[_Work | None]:
    work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
    threading.Thread(target=_run, args=(work,), name="stream-commit", daemon=True).start()
    return work


def _run(todo: queue.SimpleQueue[_Work | None]) -> None:
    while (item := todo.get()) is not None:
        future, work = item
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # the future carries it to who waits
            future.set_exception(error)
        else:
            future.set_result(None)
        del item, future, work  # they hold the records
