"""One replica of a version: a Serve actor that holds an engine."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ray import serve
from ray.serve.exceptions import RayServeException

from cluster.errors import HeadraceError, NoCapacity
from cluster.versions import VersionId
from deployments.artifacts.samples import read_samples
from deployments.engines.datatypes import Array
from deployments.engines.isolate import score_isolating
from deployments.engines.load import load_engine
from deployments.engines.port import DeviceLost
from deployments.explain.form import ExplainOptions, Explanation
from deployments.observe.logs.set_up import log_with_serve
from deployments.scoring.rows import Answer, take
from deployments.serving.collector import keep_from_collections
from deployments.serving.explaining import ReplicaExplainer
from deployments.serving.loaded import tell_loaded
from deployments.serving.memory_limit import end_above
from deployments.serving.turns import EngineTurns
from deployments.signing.admission import open_admitted
from deployments.transport.lines.frames import ReplicaTimes, Reply, TimedReply
from deployments.transport.lines.serve_book import ReplicaBook, line_name, own_node
from deployments.transport.lines.server import LineServer

T = TypeVar("T")

_log = logging.getLogger(__name__)


def _about() -> dict[str, Any]:
    """What all lines of this process's log are about."""
    try:
        context = serve.get_replica_context()
    except RayServeException:  # nobody runs it but a test
        return {}
    version = VersionId.of_app(context.app_name)
    return {"model": version.model, "version": version.number} if version is not None else {}


class Replica:
    """Loads one artifact, proves it on its sample rows, and scores batches. Run by Serve; see `deployments.serving.fleet`.

    Only modules that scoring needs are imported here: torch is loaded by a torch engine alone.
    """

    _lines: LineServer | None = None
    _opening: asyncio.Task[None] | None = None

    def __init__(
        self,
        uri: str,
        digest: str,
        *,
        model: str,
        threads: int,
        gpus: float,
        stuck_after_s: float,
        memory_bytes: int | None = None,
    ) -> None:
        """Blocks until the engine is warm, of a version that may be opened as one of `model`. `stuck_after_s` is how long calls
        may wait with none finished before the replica calls itself ill; above `memory_bytes` its process ends. Raises
        BadArtifact, Unreachable, NoCapacity or Forbidden (sealed, and no key here), which Serve shows as the app's message."""
        log_with_serve(**_about())
        began_s = time.monotonic()
        if memory_bytes is not None:
            end_above(memory_bytes)
        version = open_admitted(uri, digest, model)
        self._engine = load_engine(version, threads=threads, gpus=gpus)
        self._probe = take(read_samples(version).inputs, slice(0, 1))
        self._stuck_after_s = stuck_after_s
        self._turns = EngineTurns(threads)
        self._explainer = ReplicaExplainer(self._engine, self._turns, version, _or_end)
        keep_from_collections()
        self._opening = asyncio.get_running_loop().create_task(self._open_lines())
        self._telling = asyncio.get_running_loop().create_task(tell_loaded(time.monotonic() - began_s))

    async def __del__(self) -> None:
        """Called by Serve before the process ends, when its own calls are answered."""
        if self._opening is not None:
            await self._opening
        if self._lines is not None:
            await self._lines.close()

    async def score(self, tensors: dict[str, Array], timeout_s: float, *, timed: bool = False) -> Reply | TimedReply:
        """Scores n rows: the outputs, the indices of rows that the engine failed (zeros in the outputs), and the error of each;
        where it is `timed`, when it did so as well.

        Raises NoCapacity where the call waited for `timeout_s` before its turn came.
        """
        end_s = time.monotonic() + timeout_s
        turn: list[int] | None = [time.time_ns()] if timed else None
        answer = await self._run(tensors, end_s, turn)
        rows = sorted(answer.failed)
        errors = [answer.failed[row] for row in rows]
        if turn is None:
            return answer.outputs, rows, errors
        return answer.outputs, rows, errors, ReplicaTimes(serve.get_replica_context().replica_id.unique_id, *turn)

    async def explain(
        self, tensors: dict[str, Array], options: ExplainOptions, timeout_s: float
    ) -> list[Explanation] | HeadraceError:
        """Why n rows are answered as they are: an explanation of each, or why there is none. Users' calls go first."""
        return await self._explainer.explain(tensors, options, timeout_s)

    async def check_health(self) -> None:
        """Called by Serve. An idle replica scores a sample row; a busy one must have finished a call not long ago."""
        turns = self._turns
        if turns.waiting == 0:
            answer = await self._run(self._probe, time.monotonic() + self._stuck_after_s)
            if answer.failed:
                raise answer.failed[0]
        elif time.monotonic() - turns.progress_s > self._stuck_after_s:
            raise NoCapacity(f"no call has finished for {self._stuck_after_s:g} s", remedy="Serve replaces the replica")

    async def _run(self, tensors: dict[str, Array], end_s: float, turn: list[int] | None = None) -> Answer:
        return await self._turns.of_user(partial(self._in_turn, tensors, end_s, turn))

    async def _open_lines(self) -> None:
        try:
            book = ReplicaBook()
            lines = LineServer(self.score, book.most, book.answered)
            await lines.open(line_name(own_node(), serve.get_replica_context().replica_id))
        except (AttributeError, KeyError, OSError) as error:
            _log.warning("callers reach this replica by Serve alone: %r", error)
        else:
            self._lines = lines

    def _in_turn(self, tensors: dict[str, Array], end_s: float, turn: list[int] | None) -> Answer:
        """`turn` is told when it came, and when it was over."""
        if time.monotonic() > end_s:
            raise NoCapacity("its turn came after the deadline", remedy="retry, or add replicas")
        if turn is not None:
            turn.append(time.time_ns())
        answer = _or_end(partial(score_isolating, self._engine, tensors))
        if turn is not None:
            turn.append(time.time_ns())
        return answer


def _or_end(work: Callable[[], T]) -> T:
    """Does the engine's work. Without its device the process ends, as after a crash: callers find the row at fault, and Serve
    starts another replica."""
    try:
        return work()
    except DeviceLost as error:
        _log.error("the process ends: %s", error)
        os.kill(os.getpid(), signal.SIGKILL)
        raise
