"""Explanations in a replica: one call at a time, in a thread of its own, from what its users leave over of the engine."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from cluster.errors import HeadraceError, NoCapacity
from deployments.artifacts.background import read_background
from deployments.artifacts.version_files import VersionFiles
from deployments.engines.datatypes import Array
from deployments.engines.port import Engine, gradients_of
from deployments.explain.explaining import explain_rows
from deployments.explain.form import Background, ExplainOptions, Explanation, Gradients, OutOfTime
from deployments.scoring.rows import take
from deployments.serving.turns import EngineTurns

CALLS_MOST = 4  # that wait, the one under way with them
PIECE_S = 0.002  # so long a user's call may wait for a piece that has begun
PIECE_ROWS = 256
FLOOR_TIMES, TRY_AFTER = 1.5, 16
SWITCH_S = 0.0005
LOOK_EVERY_S = 0.05
USERS_S = 1.0  # since their last call: so long they may call again at any time
RESTS = 1.0  # as long as it worked: what users' calls need beside the engine has the processor then
MORE_TIME = "allow more time with x-timeout-ms, or retry later"
Guarded = Callable[[Callable[[], dict[str, Array]]], dict[str, Array]]


@dataclass(slots=True)
class PiecePace:
    """How many rows the next piece has: as many as take PIECE_S, or little longer than any call of the version takes at least."""

    rows: int = 1
    least_s: float = math.inf
    good_ones: int = TRY_AFTER

    def took(self, rows: int, seconds: float) -> None:
        """A piece of so many rows took so long."""
        self.least_s = min(self.least_s, seconds)
        if seconds > max(PIECE_S, FLOOR_TIMES * self.least_s):
            self.rows, self.good_ones = max(1, rows // 2), 0
            return
        self.good_ones += 1
        # What once took too long is tried again now and then: others had the processor, maybe.
        if rows >= self.rows and self.good_ones > TRY_AFTER:
            self.rows = min(2 * self.rows, PIECE_ROWS)


class ReplicaExplainer:
    """Used from the replica's event loop."""

    def __init__(self, engine: Engine, turns: EngineTurns, version: Path | VersionFiles, guarded: Guarded) -> None:
        """The engine of the version whose files these are; `guarded` is what each of its calls goes through."""
        self._engine = engine
        self._turns = turns
        self._version = version
        self._guarded = guarded
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._calls = 0
        self._pace = PiecePace()

    async def explain(
        self, tensors: Mapping[str, Array], options: ExplainOptions, timeout_s: float
    ) -> list[Explanation] | HeadraceError:
        """One explanation a row, or why there is none: that is told and not raised, since Serve would log it as a failure.

        What is not done within `timeout_s` is cut, and says how rough it is.
        """
        if self._calls >= CALLS_MOST:
            return NoCapacity(f"{self._calls} explanations are under way here", remedy="retry later, or add replicas")
        work = ExplainWork(self._engine, self._turns, self._guarded, self._pace, time.monotonic() + timeout_s, threading.Event())
        self._calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._explain, work, tensors, options)
        except HeadraceError as error:
            return error
        finally:
            work.given_up.set()
            self._calls -= 1

    def _explain(self, work: ExplainWork, tensors: Mapping[str, Array], options: ExplainOptions) -> list[Explanation]:
        left_s = work.end_s - time.monotonic()
        if left_s <= 0 or work.given_up.is_set():
            raise NoCapacity("its turn came after the deadline", remedy=MORE_TIME)
        if options.deadline_s is not None:
            left_s = min(left_s, options.deadline_s)
        work.begin()
        with _quick_switches():
            return explain_rows(
                work.score,
                tensors,
                self._engine.signature,
                self._background,
                replace(options, deadline_s=left_s),
                gradients=work.gradients,
            )

    @cached_property
    def _background(self) -> Background:
        return read_background(self._version)


@dataclass(slots=True)
class ExplainWork:
    """The engine as one explanation sees it: slower than it is, piece by piece, and with rests while users call."""

    engine: Engine
    turns: EngineTurns
    guarded: Guarded
    pace: PiecePace
    end_s: float
    given_up: threading.Event
    rested_s: float = 0.0

    def begin(self) -> None:
        """Its turn has come: what it does from now on is work."""
        self.rested_s = time.monotonic()

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """See `deployments.explain.form.Score`."""
        return self._in_pieces(tensors, lambda part: self.engine.score(take(tensors, part)))

    @property
    def gradients(self) -> Gradients | None:
        """See `deployments.engines.port.Differentiable`; None where the engine is not."""
        derive = gradients_of(self.engine)
        if derive is None:
            return None
        return lambda tensors, output, weights: self._in_pieces(
            tensors, lambda part: derive(take(tensors, part), output, weights[part])
        )

    def _in_pieces(self, tensors: Mapping[str, Array], work: Callable[[slice], dict[str, Array]]) -> dict[str, Array]:
        count, done = len(next(iter(tensors.values()))), 0
        parts: list[dict[str, Array]] = []
        while done < count:
            part = slice(done, min(done + self.pace.rows, count))
            done = part.stop
            parts.append(self._in_turn(partial(self._timed, work, part)))
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _timed(self, work: Callable[[slice], dict[str, Array]], part: slice) -> dict[str, Array]:
        began_s = time.monotonic()
        outputs = self.guarded(partial(work, part))
        self.pace.took(part.stop - part.start, time.monotonic() - began_s)
        return outputs

    def _in_turn(self, piece: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        """Waits until users leave the engine free, for as long as somebody waits for the explanation."""
        if self.turns.used_within(USERS_S):
            now_s = time.monotonic()
            self.given_up.wait(max(0.0, min(RESTS * (now_s - self.rested_s), self.end_s - now_s)))
        while self.given_up.is_set() or not self.turns.take_spare(LOOK_EVERY_S):
            if self.given_up.is_set() or time.monotonic() > self.end_s:
                raise OutOfTime("its users left it no time to explain", remedy=MORE_TIME)
        self.rested_s = time.monotonic()
        try:
            return piece()
        finally:
            self.turns.give_back()


@contextlib.contextmanager
def _quick_switches() -> Iterator[None]:
    """While it lasts, threads hand the interpreter's lock over ten times as often: who answers users must not wait for sums."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(SWITCH_S, before))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
