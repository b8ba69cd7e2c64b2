"""Worker: how fast variants are, and how much memory one needs. Variants take turns, so that noise meets them all alike."""

from __future__ import annotations

import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from cluster.signature import Signature
from deployments.builder.worker import serve
from deployments.engines.datatypes import Array
from deployments.engines.load import open_engine
from deployments.engines.port import Engine

BATCHES = (1, 64, 1024)
ROUNDS = 25
MIN_ROUND_S = 0.002


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: engine, files by variant, signature, rows (.npz). One thread. Answers by variant: speed by batch, and peak_bytes."""
    signature = Signature.model_validate(job["signature"])
    with np.load(job["rows"], allow_pickle=False) as archive:
        rows = {name: archive[name] for name in archive.files}
    files = {name: Path(file) for name, file in job["files"].items()}
    # Forked before this process has threads, one child a variant, so that no variant inherits another's memory.
    peaks = {name: _in_child(job["engine"], file, signature, rows) for name, file in files.items()}
    engines = {name: open_engine(job["engine"], file, signature) for name, file in files.items()}
    return {"speed": _speed(engines, rows), "peak_bytes": peaks}


def _in_child(kind: str, file: Path, signature: Signature, rows: dict[str, Array]) -> int:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(_memory(kind, file, signature, rows)))
    child.start()
    theirs.close()
    try:
        return int(ours.recv())
    finally:
        child.join()


def _speed(engines: dict[str, Engine], rows: dict[str, Array]) -> dict[str, dict[str, Any]]:
    """By variant and batch: rows/s, p50 and p99 of a call in ms, and the time ratio to the first variant, round by round."""
    found: dict[str, dict[str, Any]] = {name: {} for name in engines}
    for batch in BATCHES:
        feed = _tiled(rows, batch)
        calls = {name: _calls_in_a_round(engine, feed) for name, engine in engines.items()}
        times: dict[str, list[Any]] = {name: [] for name in engines}
        for turn in range(ROUNDS):
            order = list(engines)[:: 1 if turn % 2 else -1]
            for name in order:
                times[name].append(_timed(engines[name], feed, calls[name]))
        first = next(iter(engines))
        medians = {name: np.array([np.median(turn) for turn in turns]) for name, turns in times.items()}
        for name, turns in times.items():
            every_ms = np.concatenate(turns) * 1e3
            found[name][str(batch)] = {
                "rows_per_s": batch / float(np.median(medians[name])),
                "p50_ms": float(np.percentile(every_ms, 50)),
                "p99_ms": float(np.percentile(every_ms, 99)),
                "speedup": float(np.median(medians[first] / medians[name])),
            }
    return found


def _calls_in_a_round(engine: Engine, feed: dict[str, Array]) -> int:
    engine.score(feed)
    return max(1, min(200, int(MIN_ROUND_S / max(1e-7, float(_timed(engine, feed, 3).min())))))


def _timed(engine: Engine, feed: dict[str, Array], calls: int) -> Any:
    """Seconds of each call, after one that warms the caches; float64 [calls]."""
    engine.score(feed)
    times = np.empty(calls)
    for i in range(calls):
        start = time.perf_counter()
        engine.score(feed)
        times[i] = time.perf_counter() - start
    return times


def _tiled(rows: dict[str, Array], count: int) -> dict[str, Array]:
    have = len(next(iter(rows.values())))
    return {name: np.ascontiguousarray(value[np.arange(count) % have]) for name, value in rows.items()}


def _memory(kind: str, file: Path, signature: Signature, rows: dict[str, Array]) -> int:
    """What loading the model and scoring batches adds to this process's peak."""
    feeds = [_tiled(rows, batch) for batch in BATCHES]
    before = _peak_bytes()
    engine = open_engine(kind, file, signature)
    for feed in feeds:
        engine.score(feed)
    return max(0, _peak_bytes() - before)


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Better than ru_maxrss, with which a child of a large process starts high.
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:"))


if __name__ == "__main__":
    serve(step)
