"""An engine in a process of its own, next to its caller: one that crashes takes nobody along.

Between the two are socket pairs: one for each thread that computes, and one that tells how loading went and whose end, on either
side, is the end of the other. The caller's event loop itself writes calls and reads answers: a thread that waits for each of them
makes a call half as dear again. What goes over is pickled: both ends are the same program, and no input's bytes are unpickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.errors import HeadraceError, NoCapacity
from cluster.fleet.serving import Serving
from cluster.foreign import trace_of
from cluster.routing.routes import Target
from deployments.artifacts.version_files import open_folder
from deployments.engines.datatypes import Array
from deployments.engines.isolate import score_isolating
from deployments.engines.load import load_engine
from deployments.engines.port import Engine
from deployments.observe.logs.set_up import log_to_stderr
from deployments.scoring.rows import Answer
from deployments.serving.collector import keep_from_collections
from deployments.serving.memory_limit import end_above
from deployments.signing.admission import admitted_copy
from deployments.transport.lines.frames import Ask, Frames, packed, received

START_TIMEOUT_S = 300.0
SMALL_BYTES = 1 << 16


class EngineGone(NoCapacity):
    """The engine's process ended, or was let go, before it had answered."""


class EngineProcess:
    """Implements `deployments.transport.transports.Runs` once connected. Its process ends with `close` and with this
    process, and before `connect` with the last reference to it."""

    def __init__(self, path: Path, *, threads: int, memory_bytes: int | None = None, digest: str | None = None) -> None:
        """Blocks for seconds: loads the version at `path`, of that `digest`, as `load_engine` does, and raises what it raises;
        NoCapacity where the process ends before it is ready. Above `memory_bytes` it is killed."""
        pairs = [socket.socketpair() for _ in range(1 + threads)]
        theirs = [pair[1] for pair in pairs]
        command = [sys.executable, "-m", __name__, *(str(end.fileno()) for end in theirs)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(command, pass_fds=[end.fileno() for end in theirs], env=environment)
        for end in theirs:
            end.close()
        # So that no zombie is left, whenever it ends; without a reference to this object.
        threading.Thread(target=self._process.wait, name="engine-process", daemon=True).start()
        self._control, *self._ends = (pair[0] for pair in pairs)
        self._calls = _Calls()
        self._control.settimeout(START_TIMEOUT_S)
        try:
            refusal = _ask(self._control, [str(path), threads, memory_bytes, digest])  # no tuple: those are replies
        except OSError as error:
            self.close()
            raise NoCapacity(
                f"the engine's process did not get ready: {error}", where=str(path), remedy="look at the log"
            ) from None
        if refusal is not None:
            self.close()
            raise refusal

    @property
    def pid(self) -> int:
        """Of the engine's process."""
        return self._process.pid

    async def connect(self) -> None:
        """From now on calls may begin, on the loop that runs this."""
        loop = asyncio.get_running_loop()
        ends, self._ends = self._ends, []
        for end in ends:
            end.setblocking(False)
            await loop.create_unix_connection(self._calls.line, sock=end)

    def begin(self, tensors: Mapping[str, Array], told: asyncio.Future[Answer]) -> None:
        """See `Runs.begin`. Raises EngineGone through `told` where the process ends first, or has ended."""
        self._calls.begin(tensors, told)

    def close(self) -> None:
        """Ends the process; calls under way raise EngineGone. Safe to repeat."""
        self._process.kill()
        for end in (self._control, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._calls.close()


class _Calls:
    """Calls over the lines of one process, as many at a time as there are lines. Used on one event loop."""

    def __init__(self) -> None:
        self._lines: set[Frames] = set()
        self._free: list[Frames] = []
        self._asked: dict[Frames, asyncio.Future[Answer]] = {}
        self._waiting: deque[tuple[Mapping[str, Array], asyncio.Future[Answer]]] = deque()

    def line(self) -> Frames:
        return Frames(self._heard, self._lost, self._made)

    def begin(self, tensors: Mapping[str, Array], told: asyncio.Future[Answer]) -> None:
        self._waiting.append((tensors, told))
        self._next()

    def close(self) -> None:
        for line in list(self._lines):
            line.abort()

    def _next(self) -> None:
        while self._waiting and (self._free or not self._lines):
            tensors, told = self._waiting.popleft()
            if told.done():  # its caller gave up while it waited
                continue
            if not self._lines:
                told.set_exception(_gone())
                continue
            line = self._free.pop()
            self._asked[line] = told
            line.send(0, Ask(tensors, math.inf))

    def _made(self, line: Frames) -> None:
        self._lines.add(line)
        self._free.append(line)

    def _heard(self, line: Frames, _: int, reply: Any) -> None:
        told = self._asked.pop(line)
        self._free.append(line)
        if not told.done():
            outputs, failed, errors = reply
            told.set_result(Answer(outputs, dict(zip(failed, errors, strict=True))))
        self._next()

    def _lost(self, line: Frames) -> None:
        self._lines.discard(line)
        told = self._asked.pop(line, None)
        if told is None:
            self._free = [each for each in self._free if each is not line]
        elif not told.done():
            told.set_exception(_gone())
        self._next()


def _gone() -> EngineGone:
    return EngineGone("the engine's process ended", remedy="retry")


def start_engine_process(target: Target, serving: Serving) -> EngineProcess:
    """Fetches a version and loads it in a process of its own, on the CPU. Blocks; raises what `EngineProcess` raises, and
    Unreachable."""
    path = admitted_copy(target.artifact_uri, target.digest, target.model)
    return EngineProcess(path, threads=serving.threads, memory_bytes=serving.memory_bytes, digest=target.digest)


def _ask(end: socket.socket, question: object) -> Any:
    _send(end, question)
    return _receive(end)


def _send(end: socket.socket, message: object) -> None:
    pieces = packed(0, message)
    if sum(map(len, pieces)) <= SMALL_BYTES:
        end.sendall(b"".join(pieces))  # wakes the other end once
    else:
        for piece in pieces:
            end.sendall(piece)


def _receive(end: socket.socket) -> Any:
    _, message = received(end, bytearray(SMALL_BYTES))
    return message


def _serve(engine: Engine, end: socket.socket) -> None:
    """Answers one call after the other, until the caller is gone."""
    staged = bytearray(SMALL_BYTES)
    while True:
        try:
            _, ask = received(end, staged)
        except OSError:
            return
        answer = score_isolating(engine, ask.tensors)
        rows = sorted(answer.failed)
        try:
            _send(end, (answer.outputs, rows, [answer.failed[row] for row in rows]))
        except OSError:
            return


def _end_loudly(defect: threading.ExceptHookArgs) -> None:
    """A thread that is gone would leave its caller waiting; a process that is gone is seen."""
    if defect.exc_value is not None:
        sys.stderr.write(trace_of(defect.exc_value))
        sys.stderr.flush()
    os._exit(1)


def main() -> None:
    """The process: its arguments are the file descriptors, the first of them to tell that it is ready."""
    log_to_stderr()
    control, *ends = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
    path, threads, memory_bytes, digest = _receive(control)
    if memory_bytes is not None:
        end_above(memory_bytes)
    try:
        engine = load_engine(open_folder(Path(path), digest), threads=threads)
    except HeadraceError as error:
        _send(control, error)
        return
    keep_from_collections()
    threading.excepthook = _end_loudly
    for end in ends:
        threading.Thread(target=_serve, args=(engine, end), daemon=True).start()
    _send(control, None)
    control.recv(1)  # until the caller lets go, or is gone: also while a model hangs
    os._exit(0)


if __name__ == "__main__":
    main()
