"""Puts recorded requests to an engine, some at a time, and compares."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent import futures
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from cluster.errors import HeadraceError
from cluster.fleet.outputs import OutputLimits
from consumers.payload_replay.outcome import ReplayOutcome, percentiles_ms
from consumers.payload_replay.recorded import RecordedRequest
from deployments.engines.datatypes import Array
from deployments.engines.port import Engine
from deployments.observe.payloads.event import PayloadOutcome
from deployments.privacy.released import released
from deployments.scoring.shadow.compare import disagreements


class ReplaySpeed(StrEnum):
    """How fast requests follow each other."""

    RECORDED = "1"
    MAX = "max"


def replay(
    requests: Iterable[RecordedRequest],
    engine: Engine,
    model: str,
    version: int,
    *,
    speed: ReplaySpeed = ReplaySpeed.MAX,
    tolerance: float | None = None,
    concurrency: int = 1,
    limits: OutputLimits | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> ReplayOutcome:
    """Blocks until all are done. Rows agree as a shadow's do: within `tolerance`, or without one by the argmax on the last axis.

    At most `concurrency` requests are with the engine at a time: at the recorded pace the next one waits where all are. Shadows'
    answers were nobody's, so they are left out. `limits` are those of the model's outputs: what left then is held against what
    would leave now. `wait` sleeps so many seconds.
    """
    tally = _Tally(tolerance)
    began_s, first_s = time.monotonic(), None
    running: set[futures.Future[_Asked]] = set()
    with futures.ThreadPoolExecutor(concurrency) as pool:
        for request in requests:
            if request.outcome is PayloadOutcome.DISAGREED:
                continue
            first_s = request.at_s if first_s is None else first_s
            if speed is ReplaySpeed.RECORDED and (early_s := began_s + request.at_s - first_s - time.monotonic()) > 0:
                wait(early_s)
            if len(running) == concurrency:
                done, running = futures.wait(running, return_when=futures.FIRST_COMPLETED)
                tally.add(done)
            running.add(pool.submit(_ask, engine, request, limits))
        tally.add(futures.wait(running).done)
    return tally.outcome(model, version, time.monotonic() - began_s)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, and what it got."""

    request: RecordedRequest
    got: dict[str, Array] | HeadraceError
    seconds: float


def _ask(engine: Engine, request: RecordedRequest, limits: OutputLimits | None) -> _Asked:
    asked_s = time.perf_counter()
    try:
        got: dict[str, Array] | HeadraceError = engine.score(request.inputs)
        if limits and isinstance(got, dict):
            got = released(got, limits)
    except HeadraceError as error:
        got = error
    return _Asked(request, got, time.perf_counter() - asked_s)


class _Tally:
    """What has become of all requests so far."""

    def __init__(self, tolerance: float | None) -> None:
        self._tolerance = tolerance
        self._seconds: list[float] = []
        self._reasons: Counter[str] = Counter()
        self._rows = self._same = self._different = self._saved = self._lasting = 0

    def add(self, done: Iterable[futures.Future[_Asked]]) -> None:
        for asked in (future.result() for future in done):
            request, got = asked.request, asked.got
            self._seconds.append(asked.seconds)
            self._rows += request.rows
            if isinstance(got, HeadraceError):
                self._reasons[got.kind] += request.rows
                self._lasting += request.rows if request.outcome is PayloadOutcome.ERROR else 0
            elif request.outcome is PayloadOutcome.ERROR:
                self._saved += request.rows
            elif request.outputs:
                differ = int(np.count_nonzero(disagreements(request.outputs, got, self._tolerance)))
                self._different += differ
                self._same += request.rows - differ

    def outcome(self, model: str, version: int, seconds: float) -> ReplayOutcome:
        p50_ms, p90_ms, p99_ms, max_ms = percentiles_ms(self._seconds)
        return ReplayOutcome(
            model=model,
            version=version,
            requests=len(self._seconds),
            rows=self._rows,
            same=self._same,
            different=self._different,
            errors=self._reasons.total(),
            answered_errors=self._saved,
            lasting_errors=self._lasting,
            reasons=dict(self._reasons),
            p50_ms=p50_ms,
            p90_ms=p90_ms,
            p99_ms=p99_ms,
            max_ms=max_ms,
            seconds=seconds,
        )
