"""The caller's end: one line to each replica on its node."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Mapping
from enum import Enum
from typing import Any

from deployments.engines.datatypes import Array
from deployments.transport.lines.frames import Ask, Broken, Frames, Reply, TimedReply, Word
from deployments.transport.lines.serve_book import HandleBook, ReplicaName, own_node
from deployments.transport.lines.server import address

_log = logging.getLogger(__name__)
TRY_AGAIN_S = 1.0
# While calls wait, the replica is asked so often whether it is there, which takes it no time whatever it scores.
LOOK_EVERY_S = 0.5
SILENCES_MOST = 3


class ReplicaGone(Exception):
    """The line ended under a call: its replica died, most likely."""


class Declined(Exception):
    """The replica did not take the call: it is full, stops, or is gone."""


class StandsStill(Exception):
    """Nothing comes from the replica, though the line holds: its process is stopped, or has no time. It may go on later."""


class LineState(Enum):
    """Of a line."""

    NEW = 1  # the replica has not said yet that it takes calls
    READY = 2
    ENDED = 3  # there will be no more calls


class Line:
    """To one replica; calls share it."""

    def __init__(self, book: HandleBook, replica: ReplicaName, most: int) -> None:
        self._book = book
        self._replica = replica
        self._most = most
        self._frames = Frames(self._heard, self._lost)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._looking: asyncio.TimerHandle | None = None
        self._silences = 0
        self.state = LineState.NEW

    async def connect(self, name: str) -> None:
        """Raises OSError where nobody listens."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            end.connect(address(name))
            await asyncio.get_running_loop().create_unix_connection(lambda: self._frames, sock=end)
        except BaseException:
            end.close()
            raise

    @property
    def under_way(self) -> int:
        """Calls that wait for an answer."""
        return len(self._waiting)

    @property
    def fit(self) -> bool:
        """Whether another call may be made."""
        return self.state is LineState.READY and self.under_way < self._most

    async def score(self, tensors: Mapping[str, Array], timeout_s: float, *, timed: bool = False) -> Reply | TimedReply | Broken:
        """`timed`: the reply says when the replica did it. Raises ReplicaGone, StandsStill, Declined, or TimeoutError: the line
        then ends, and whether the replica lives, another will tell."""
        if self.state is not LineState.READY:
            raise Declined
        loop = asyncio.get_running_loop()
        self._number += 1
        call = self._number
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting[call] = answer
        if self._looking is None:
            self._looking = loop.call_later(LOOK_EVERY_S, self._look)
        self._book.began(self._replica)
        timer = loop.call_later(timeout_s, self._expire, answer)
        try:
            self._frames.send(call, Ask(tensors, timeout_s, timed))
            reply = await answer
        except (TimeoutError, asyncio.CancelledError):
            self._frames.send(call, Word.NEVER_MIND)
            raise
        finally:
            timer.cancel()
            self._waiting.pop(call, None)
            self._book.ended(self._replica)
            self._close_if_done()
        if isinstance(reply, Word):
            raise Declined
        told: Reply | TimedReply | Broken = reply
        return told

    def leave(self) -> None:
        """No more calls; ends once those under way are answered. Safe to repeat."""
        self.state = LineState.ENDED
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.state is LineState.ENDED and not self._waiting:
            self._frames.close()

    def _expire(self, answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            self.leave()
            answer.set_exception(TimeoutError())

    def _look(self) -> None:
        self._looking = None
        if not self._waiting:
            self._silences = 0
        elif self._silences < SILENCES_MOST:
            self._silences += 1
            self._frames.send(0, Word.ARE_YOU_THERE)
            self._looking = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)
        else:
            self._book.doubt(self._replica)
            self._fail(StandsStill("the replica stands still"))
            self._frames.abort()  # what it has not read, nobody waits for

    def _heard(self, _: Frames, call: int, message: Any) -> None:
        self._silences = 0
        if message is Word.READY and self.state is LineState.NEW:
            self.state = LineState.READY
        elif message is Word.GOING:
            self.leave()
        answer = self._waiting.get(call)
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _lost(self, _: Frames) -> None:
        self._fail(ReplicaGone("the line to the replica ended"))

    def _fail(self, error: Exception) -> None:
        self.state = LineState.ENDED
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)


class Lines:
    """The lines of one app. Used on one event loop."""

    def __init__(self, handle: Any) -> None:
        self._book = HandleBook(handle)
        self._replicas: Mapping[ReplicaName, Any] = {}
        self._lines: dict[ReplicaName, Line] = {}
        self._trying: asyncio.Task[None] | None = None
        self._tried_s = 0.0

    @property
    def replicas(self) -> int:
        """How many the app has, on any node, as Serve told last. 0 before the handle's first call."""
        return len(self._book.replicas())

    def pick(self) -> Line | None:
        """The line to the replica that has the least of our calls under way; None where Serve had better choose: there is no such
        line, or all are in use and there are replicas without one. A replica that has not said yet that it is ready stands still:
        Serve had nothing from it either."""
        replicas = self._book.replicas()
        if replicas is not self._replicas:
            self._replicas = replicas
            self._tried_s = 0.0
            for replica in [replica for replica in self._lines if replica not in replicas]:
                self._lines.pop(replica).leave()
        ready = [line for line in self._lines.values() if line.state is LineState.READY]
        best = min(ready, key=_under_way, default=None)
        if len(ready) < len(replicas):
            self._look_for_more()
            reached = [line for line in self._lines.values() if line.state is not LineState.ENDED]
            if best is not None and best.under_way and len(reached) < len(replicas):
                return None
        return best if best is not None and best.fit else None

    def close(self) -> None:
        """Ends each line once its calls are answered. Safe to repeat."""
        if self._trying is not None:
            self._trying.cancel()
        for line in self._lines.values():
            line.leave()
        self._lines = {}

    def _look_for_more(self) -> None:
        now_s = time.monotonic()
        if self._trying is None and now_s - self._tried_s > TRY_AGAIN_S:
            self._tried_s = now_s
            self._trying = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            node = own_node()
            for replica, seen in list(self._replicas.items()):
                line = self._lines.get(replica)
                to = self._book.line_to(replica, seen, node)
                if to is None or (line is not None and line.state is not LineState.ENDED):
                    continue
                name, most = to
                line = Line(self._book, replica, most)
                try:
                    await line.connect(name)
                except OSError as error:
                    _log.debug("no line to %s: %s", replica, error)
                else:
                    self._lines[replica] = line
        finally:
            self._trying = None


def _under_way(line: Line) -> int:
    return line.under_way
