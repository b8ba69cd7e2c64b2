"""Puts recorded requests to an engine, one after the other, and compares."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum

import numpy as np

from cluster.errors import HeadraceError
from consumers.payload_replay.outcome import ReplayOutcome, percentiles_ms
from consumers.payload_replay.recorded import RecordedRequest
from deployments.engines.port import Engine
from deployments.observe.payloads.event import PayloadOutcome
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
    wait: Callable[[float], None] = time.sleep,
) -> ReplayOutcome:
    """Blocks until all are done. Rows agree as a shadow's do: within `tolerance`, or without one by the argmax on the last axis.

    Shadows' answers were nobody's, so they are left out. `wait` sleeps so many seconds.
    """
    seconds: list[float] = []
    reasons: Counter[str] = Counter()
    rows = same = different = errors = saved = 0
    began_s, first_s = time.monotonic(), None
    for request in requests:
        if request.outcome is PayloadOutcome.DISAGREED:
            continue
        first_s = request.at_s if first_s is None else first_s
        if speed is ReplaySpeed.RECORDED and (early_s := began_s + request.at_s - first_s - time.monotonic()) > 0:
            wait(early_s)
        rows += request.rows
        asked_s = time.perf_counter()
        try:
            outputs = engine.score(request.inputs)
        except HeadraceError as error:
            errors += request.rows
            reasons[error.kind] += request.rows
            continue
        finally:
            seconds.append(time.perf_counter() - asked_s)
        if request.outcome is PayloadOutcome.ERROR:
            saved += request.rows
        elif request.outputs:
            differ = int(np.count_nonzero(disagreements(request.outputs, outputs, tolerance)))
            different += differ
            same += request.rows - differ
    p50_ms, p90_ms, p99_ms, max_ms = percentiles_ms(seconds)
    return ReplayOutcome(
        model=model,
        version=version,
        requests=len(seconds),
        rows=rows,
        same=same,
        different=different,
        errors=errors,
        answered_errors=saved,
        reasons=dict(reasons),
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        max_ms=max_ms,
        seconds=time.monotonic() - began_s,
    )
