"""A stream's figures for operators: what its transactions have committed, and how its worker is doing."""

from __future__ import annotations

from cluster.watch.catalogue import (
    DEAD_LETTERS,
    ROWS_SCORED,
    STREAM_COMMIT_SECONDS,
    STREAM_COMMITS,
    STREAM_IN_FLIGHT,
    STREAM_LAG,
    STREAM_OLDEST,
    STREAM_RECORD_AGE,
    STREAM_RECORDS,
    STREAM_RECOVERIES,
    STREAM_RETRIES,
    STREAM_WORKERS,
    Metric,
    RequestOutcome,
    ScoringWay,
)
from consumers.stream.commits import CommitPlan
from consumers.stream.counters import Counters
from consumers.stream.phases import WorkerPhase
from deployments.observe.meters import Meters

ANSWERED, DEAD, PASSED = "answered", "dead", "passed"


class StreamMeter:
    """Of one worker. Its thread calls `committed`; the thread that makes reports calls the rest."""

    def __init__(self, meters: Meters, stream: str, model: str) -> None:
        self._meters, self._stream, self._model = meters, stream, model
        self._principal = f"stream {stream}"
        self._phase = ""
        self._told: dict[Metric, int] = {}

    def committed(self, plan: CommitPlan, took_s: float, now_ms: int) -> None:
        """A transaction has committed."""
        meters, stream = self._meters, self._stream
        meters.add(STREAM_COMMITS, 1, stream)
        meters.observe(STREAM_COMMIT_SECONDS, took_s, stream)
        for outcome in plan.outcomes:
            answered = 0
            for version, rows in outcome.versions.items():
                answered += rows
                meters.add(ROWS_SCORED, rows, self._model, str(version), ScoringWay.STREAM)
                meters.uses.add(self._principal, self._model, str(version), ScoringWay.STREAM, RequestOutcome.OK, rows)
            if answered:
                meters.add(STREAM_RECORDS, answered, stream, ANSWERED)
                # All as old as the first of them: to look at each one's time would cost as much as to send it.
                meters.observe(STREAM_RECORD_AGE, max(now_ms - outcome.first_ms, 0) / 1000, stream, count=answered)
            if outcome.rows_out > answered:
                meters.add(STREAM_RECORDS, outcome.rows_out - answered, stream, PASSED)
            for reason, rows in outcome.dead.items():
                meters.add(STREAM_RECORDS, rows, stream, DEAD)
                meters.add(DEAD_LETTERS, rows, stream, reason)
                meters.uses.add(self._principal, self._model, "", ScoringWay.STREAM, DEAD, rows)

    def look(self, counters: Counters, phase: WorkerPhase, *, lag: int, in_flight: int, oldest_s: float) -> None:
        """How the worker is doing now; `oldest_s` is how long the oldest record that is not committed has been here."""
        meters, stream = self._meters, self._stream
        self._grown(STREAM_RETRIES, counters.retries)
        self._grown(STREAM_RECOVERIES, counters.recoveries)
        meters.put(STREAM_LAG, lag, stream)
        meters.put(STREAM_IN_FLIGHT, in_flight, stream)
        meters.put(STREAM_OLDEST, oldest_s, stream)
        if self._phase and self._phase != phase:
            meters.put(STREAM_WORKERS, None, stream, self._phase)
        self._phase = phase
        meters.put(STREAM_WORKERS, 1, stream, phase)

    def _grown(self, metric: Metric, total: int) -> None:
        more = total - self._told.get(metric, 0)
        self._told[metric] = total
        if more:
            self._meters.add(metric, more, self._stream)
