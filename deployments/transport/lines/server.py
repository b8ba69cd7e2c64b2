"""The replica's end of its lines."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from cluster.errors import NoCapacity
from cluster.foreign import kind_and_words
from deployments.transport.lines.frames import Ask, Broken, Frames, Reply, TimedReply, Word

_log = logging.getLogger(__name__)
BACKLOG = 64


class LineServer:
    """Answers what comes over lines. Used on one event loop."""

    def __init__(
        self,
        score: Callable[..., Awaitable[Reply | TimedReply]],
        most: int,
        answered: Callable[[float, str | None], None],
    ) -> None:
        """`score` is given tensors and a time in seconds, and `timed=True` where it is to say when it did so. At most `most`
        calls are taken at a time. `answered` is told of each call how many ms it took, and the name of what it raised, if it
        did."""
        self._score = score
        self._most = most
        self._answered = answered
        self._server: asyncio.Server | None = None
        self._lines: set[Frames] = set()
        self._calls: dict[tuple[Frames, int], asyncio.Task[None]] = {}
        self._going = False

    async def open(self, name: str) -> None:
        """Listens under a name that only processes on this machine find. Raises OSError where somebody else has it."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listening.bind(address(name))
            self._server = await asyncio.get_running_loop().create_unix_server(self._line, sock=listening, backlog=BACKLOG)
        except BaseException:
            listening.close()
            raise

    async def close(self) -> None:
        """Takes no more calls and returns once those that it took are answered. Safe to repeat."""
        self._going = True
        if self._server is not None:
            self._server.close()
        for line in self._lines:
            line.send(0, Word.GOING)
        await asyncio.gather(*self._calls.values(), return_exceptions=True)
        for line in list(self._lines):
            line.close()

    def _line(self) -> Frames:
        return Frames(self._heard, self._lost, self._made)

    def _made(self, line: Frames) -> None:
        self._lines.add(line)
        self._tell(line)

    def _tell(self, line: Frames) -> None:
        line.send(0, Word.GOING if self._going else Word.READY)

    def _lost(self, line: Frames) -> None:
        """Nobody waits for its calls any more."""
        self._lines.discard(line)
        for (theirs, _), task in list(self._calls.items()):
            if theirs is line:
                task.cancel()

    def _heard(self, line: Frames, call: int, message: Any) -> None:
        if message is Word.NEVER_MIND:
            if (task := self._calls.get((line, call))) is not None:
                task.cancel()
        elif message is Word.ARE_YOU_THERE:
            self._tell(line)
        elif self._going:
            line.send(call, Word.GOING)
        elif len(self._calls) >= self._most:
            line.send(call, Word.FULL)
        else:
            task = asyncio.get_running_loop().create_task(self._answer(line, call, message))
            self._calls[line, call] = task
            task.add_done_callback(lambda _: self._calls.pop((line, call)))

    async def _answer(self, line: Frames, call: int, ask: Ask) -> None:
        begin_s = time.monotonic()
        raised = None
        reply: Reply | TimedReply | Broken
        try:
            tensors = dict(ask.tensors)
            reply = await (self._score(tensors, ask.timeout_s, timed=True) if ask.timed else self._score(tensors, ask.timeout_s))
        except Exception as error:  # noqa: BLE001 (a defect, or a model's: the caller is told, as it would be by Serve)
            raised = type(error).__name__
            reply = Broken(kind_and_words(error), error if isinstance(error, NoCapacity) else None)
            if reply.refusal is None:
                _log.exception("a call failed")
        line.send(call, reply)
        self._answered(1000 * (time.monotonic() - begin_s), raised)


def address(name: str) -> bytes:
    """Of the abstract kind: it leaves no file behind, whatever becomes of the process."""
    return b"\0headrace-" + name.encode()
