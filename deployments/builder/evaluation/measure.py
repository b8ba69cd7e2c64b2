"""Worker: how fast variants are, and how much memory one needs. Variants take turns, so that noise meets them all alike."""

from __future__ import annotations

import multiprocessing
import re
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import HeadraceError
from cluster.signature import Signature
from deployments.builder.worker import serve
from deployments.engines.arrays import load_arrays
from deployments.engines.datatypes import Array
from deployments.engines.load import open_engine
from deployments.engines.port import Engine

BATCHES = (1, 64, 1024)
ROUNDS = 25
MIN_ROUND_S = 0.002
# A round is one call to warm up and one that counts, at least.
CALLS_AT_LEAST = 2


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: engine, files by variant, signature, rows (.npz), seconds (a variant), memory_bytes (a variant). One thread.

    Answers by variant: speed by batch, unmeasured (why not, by batch), and peak_bytes. Prints what it does.
    """
    signature = Signature.model_validate(job["signature"])
    rows = load_arrays(Path(job["rows"]))
    files = {name: Path(file) for name, file in job["files"].items()}
    peaks: dict[str, int | None] = {}
    unmeasured: dict[str, dict[str, str]] = {}
    for name, file in files.items():
        print(f"measure the memory of {name}", flush=True)  # noqa: T201  this is the build's log
        # Forked before this process has threads, one child a variant, so that no variant inherits another's memory.
        tried = Trial(job["engine"], file, signature, rows, job["seconds"], job["memory_bytes"]).run()
        peaks[name], unmeasured[name] = tried.peak_bytes, tried.unmeasured
    engines = {name: open_engine(job["engine"], file, signature) for name, file in files.items()}
    speed = _speed(engines, rows, unmeasured, job["seconds"])
    return {"speed": speed, "unmeasured": unmeasured, "peak_bytes": peaks}


@dataclass(slots=True)
class Trial:
    """One variant, loaded and called once at each batch size in a process of its own, which may come to grief."""

    kind: str
    file: Path
    signature: Signature
    rows: dict[str, Array]
    seconds: float
    memory_bytes: int
    peak_bytes: int | None = None
    unmeasured: dict[str, str] = field(default_factory=dict)

    def run(self) -> Trial:
        """Fills in what was found."""
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=self._in_child, args=(theirs,))
        child.start()
        theirs.close()
        waited, fault = 0.0, ""
        left = list(BATCHES)
        while left and not fault:
            if not ours.poll(self.seconds):
                fault = f"it takes more than {self.seconds:g} s a call"
                break
            try:
                told = ours.recv()
            except EOFError:
                child.join()
                fault = f"its process was ended (exit code {child.exitcode}): more memory than there is?"
                break
            if isinstance(told, str):
                fault = told
                break
            self.peak_bytes, waited = told
            batch = left.pop(0)
            ahead = waited * left[0] / batch if left else 0.0
            if ahead * CALLS_AT_LEAST > self.seconds / len(BATCHES):
                fault = f"a call takes about {ahead:.3g} s, and {self.seconds:g} s is what a variant gets (measure.seconds)"
        self.unmeasured = {str(batch): fault for batch in left}
        child.kill()
        child.join()
        ours.close()
        return self

    def _in_child(self, theirs: Any) -> None:
        """Tells the peak in bytes and the seconds of a call for each batch size, or why it ends."""
        _limit(self.memory_bytes)
        before = _peak_bytes()
        try:
            engine = open_engine(self.kind, self.file, self.signature)
            for batch in BATCHES:
                feed = _tiled(self.rows, batch)
                # The first calls prepare things: from them alone a larger batch would seem to take for ever.
                took_s = min(_once(engine, feed) for _ in range(3 if batch == BATCHES[0] else 1))
                theirs.send((max(0, _peak_bytes() - before), took_s))
        except MemoryError:
            theirs.send(f"it needs more than the {self.memory_bytes / 1e6:.0f} MB that measuring may take (measure.memory_bytes)")
        except HeadraceError as error:
            short = re.search(r"bad_alloc|[Ff]ailed to allocate|not enough memory|can't allocate", error.what)
            limit = f"it needs more than the {self.memory_bytes / 1e6:.0f} MB that measuring may take (measure.memory_bytes)"
            theirs.send(limit if short else error.what)


def _once(engine: Engine, feed: dict[str, Array]) -> float:
    """Seconds of one call."""
    started_s = time.monotonic()
    engine.score(feed)
    return time.monotonic() - started_s


def _limit(memory_bytes: int) -> None:
    """This process gets an error, instead of the machine trouble, beyond so much more memory."""
    status = Path("/proc/self/status")
    if status.exists():
        now = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmSize:"))
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = now + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _speed(
    engines: dict[str, Engine], rows: dict[str, Array], unmeasured: dict[str, dict[str, str]], seconds: float
) -> dict[str, dict[str, Any]]:
    """By variant and batch: rows/s, p50 and p99 of a call in ms, and the time ratio to the first variant, round by round."""
    found: dict[str, dict[str, Any]] = {name: {} for name in engines}
    first = next(iter(engines), "")
    for batch in BATCHES:
        those = {name: engine for name, engine in engines.items() if str(batch) not in unmeasured[name]}
        if first not in those:
            for name in those:
                unmeasured[name][str(batch)] = f"the {first} model was not measured, which it is compared with"
            continue
        feed = _tiled(rows, batch)
        print(f"measure {len(those)} at batch {batch}", flush=True)  # noqa: T201  this is the build's log
        ends_s = time.monotonic() + len(those) * seconds / len(BATCHES)
        calls = {name: _calls_in_a_round(engine, feed) for name, engine in those.items()}
        times: dict[str, list[Any]] = {name: [] for name in those}
        for turn in range(ROUNDS):
            order = list(those)[:: 1 if turn % 2 else -1]
            for name in order:
                times[name].append(_timed(those[name], feed, calls[name]))
            if time.monotonic() > ends_s:
                break
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
    once_s = float(_timed(engine, feed, 1).min())
    if once_s < MIN_ROUND_S:
        once_s = float(_timed(engine, feed, 3).min())
    return max(1, min(200, int(MIN_ROUND_S / max(1e-7, once_s))))


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


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Better than ru_maxrss, with which a child of a large process starts high.
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:"))


if __name__ == "__main__":
    serve(step)
