"""An engine in a process of its own, next to its caller: one that crashes takes nobody along.

Between the two are socket pairs: one for each thread that computes, and one that tells how loading went and whose end, on either
side, is the end of the other. What goes over them is pickled: both ends are the same program, and no input's bytes are unpickled.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.errors import EngineFailure, HeadraceError, NoCapacity
from cluster.routes import Target
from cluster.serving import Serving
from cluster.signature import Signature
from deployments.artifact import localize
from deployments.datatypes import Array
from deployments.engines.load import load_engine
from deployments.engines.port import Engine
from deployments.memory_limit import end_above

START_TIMEOUT_S = 300.0
SMALL_BYTES = 1 << 16

_LENGTH = struct.Struct("<Q")


class EngineGone(NoCapacity):
    """The engine's process ended, or was let go, before it had answered."""


class EngineProcess:
    """Implements `Engine`. Its process ends with `close`, with the last reference to it, and with this process."""

    def __init__(self, path: Path, signature: Signature, *, threads: int, memory_bytes: int | None = None) -> None:
        """Blocks for seconds: loads the artifact at `path` as `load_engine` does, and raises what it raises; NoCapacity where the
        process ends before it is ready. Above `memory_bytes` it is killed."""
        self._signature = signature
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
        self._free: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        for end in self._ends:
            self._free.put(end)
        self._control.settimeout(START_TIMEOUT_S)
        try:
            refusal = _ask(self._control, (str(path), threads, memory_bytes))
        except OSError as error:
            self.close()
            raise NoCapacity(
                f"the engine's process did not get ready: {error}", where=str(path), remedy="look at the log"
            ) from None
        if refusal is not None:
            self.close()
            raise refusal

    @property
    def signature(self) -> Signature:
        """What the version takes and gives."""
        return self._signature

    @property
    def pid(self) -> int:
        """Of the engine's process."""
        return self._process.pid

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """See `Engine.score`. Raises EngineGone where the process ends meanwhile."""
        end = self._free.get()
        try:
            answer = _ask(end, dict(tensors))
        except OSError:
            raise EngineGone("the engine's process ended", remedy="retry") from None
        finally:
            self._free.put(end)
        if isinstance(answer, HeadraceError):
            raise answer
        outputs: dict[str, Array] = answer
        return outputs

    def close(self) -> None:
        """Ends the process; calls under way raise EngineGone. Safe to repeat."""
        self._process.kill()
        for end in (self._control, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def start_engine_process(target: Target, serving: Serving) -> EngineProcess:
    """Fetches a version and loads it in a process of its own, on the CPU. Blocks; raises what `EngineProcess` raises, and
    Unreachable."""
    path = localize(target.artifact_uri, target.digest)
    return EngineProcess(path, target.signature, threads=serving.threads, memory_bytes=serving.memory_bytes)


def _ask(end: socket.socket, question: object) -> Any:
    _send(end, question)
    return _receive(end)


def _send(end: socket.socket, message: object) -> None:
    data = pickle.dumps(message, protocol=5)
    head = _LENGTH.pack(len(data))
    if len(data) <= SMALL_BYTES:
        end.sendall(head + data)  # wakes the other end once
    else:
        end.sendall(head)
        end.sendall(data)


def _receive(end: socket.socket) -> Any:
    (size,) = _LENGTH.unpack(_exactly(end, _LENGTH.size))
    return pickle.loads(_exactly(end, size))  # noqa: S301 (written by the other end of our own pair)


def _exactly(end: socket.socket, size: int) -> bytearray:
    """Raises ConnectionResetError where the other end closes first."""
    data = bytearray(size)
    view = memoryview(data)
    at = 0
    while at < size:
        got = end.recv_into(view[at:])
        if got == 0:
            raise ConnectionResetError("the other end closed")
        at += got
    return data


def _serve(engine: Engine, end: socket.socket) -> None:
    while True:
        try:
            tensors = _receive(end)
        except OSError:
            return
        answer: object
        try:
            answer = engine.score(tensors)
        except EngineFailure as error:
            answer = error
        try:
            _send(end, answer)
        except OSError:
            return


def _end_loudly(defect: threading.ExceptHookArgs) -> None:
    """A thread that is gone would leave its caller waiting; a process that is gone is seen."""
    threading.__excepthook__(defect)
    os._exit(1)


def main() -> None:
    """The process: its arguments are the file descriptors, the first of them to tell that it is ready."""
    control, *ends = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
    path, threads, memory_bytes = _receive(control)
    if memory_bytes is not None:
        end_above(memory_bytes)
    try:
        engine = load_engine(Path(path), threads=threads)
    except HeadraceError as error:
        _send(control, error)
        return
    threading.excepthook = _end_loudly
    for end in ends:
        threading.Thread(target=_serve, args=(engine, end), daemon=True).start()
    _send(control, None)
    control.recv(1)  # until the caller lets go, or is gone: also while a model hangs
    os._exit(0)


if __name__ == "__main__":
    main()
