"""What a stream's worker has done and is doing, as commands and the dashboard show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from consumers.stream.log.port import OwnedPartition
from consumers.stream.phases import WorkerPhase


class Began(BaseModel):
    """Where a partition began in this worker, and why. `missing` offsets before that were never read: they exist no more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset: int
    why: str
    missing: int


class OpenTransaction(BaseModel):
    """A transaction that others have left open (Unix time, as first seen), and the records behind it, which can't be read yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since_s: float
    records: int


def began_of(known: OwnedPartition) -> Began:
    """Where a partition began that is read."""
    return Began(offset=known.began_at or 0, why=known.why, missing=known.missing)


def open_of(known: OwnedPartition) -> OpenTransaction:
    """What a partition waits for behind which others have left a transaction open."""
    return OpenTransaction(since_s=known.open_since_s, records=known.unreadable)


class ExplainStatus(BaseModel):
    """The explanations that a worker makes beside its scoring, at one moment, by a group of their own.

    `lag` are records that wait to be looked at, by partition as in WorkerStatus; `rows_in` were looked at since it started,
    `rows_out` of them explained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: WorkerPhase
    message: str = ""
    lag: dict[int | str, int] = {}
    rows_in: int = 0
    rows_out: int = 0
    rows_s: float = 0.0


class WorkerStatus(BaseModel):
    """One worker at one moment, which was `age_s` ago. `rows_s` is the rate of committed input records over the last seconds.

    `stuck_recoveries` is how often it went back to the same records for the cause in `stuck_cause`, none of them committed since;
    it is ill from the second on, until they are.

    Partitions are numbers, or `topic/number` where there are several topics. `lag` counts what can be read; `held` are those that
    are not read, and why. `label_trouble` says why it takes no late labels now. `explain` is None where nothing is explained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    replica: str
    age_s: float = 0.0
    rank: int
    pid: int
    client: Literal["kafka-python", "librdkafka"]
    phase: WorkerPhase
    message: str
    partitions: tuple[int | str, ...]
    lag: dict[int | str, int]
    began: dict[int | str, Began] = {}
    held: dict[int | str, str] = {}
    open_transactions: dict[int | str, OpenTransaction] = {}
    rows_in: int
    rows_out: int
    rows_dead: int
    rows_s: float
    in_flight_rows: int
    in_flight_bytes: int
    commits: int
    commit_ms: float
    recoveries: int
    retries: int
    breaker_open: bool
    stuck_recoveries: int = 0
    stuck_cause: str = ""
    label_trouble: str = ""
    explain: ExplainStatus | None = None


@dataclass
class Counters:
    """Sums since the worker started; written by its thread alone."""

    rows_in: int = 0
    rows_out: int = 0
    rows_dead: int = 0
    commits: int = 0
    recoveries: int = 0
    retries: int = 0
    commit_ms: float = 0.0
    rows_s: float = 0.0
    _window_rows: int = 0
    _window_began_s: float = 0.0

    def committed(self, *, rows_in: int, rows_out: int, rows_dead: int, took_s: float) -> None:
        """Counts one commit."""
        self.rows_in += rows_in
        self.rows_out += rows_out
        self.rows_dead += rows_dead
        self.commits += 1
        self.commit_ms = took_s * 1000
        self._window_rows += rows_in

    def look(self, now_s: float) -> None:
        """Renews the rate every two seconds; called once a turn."""
        elapsed_s = now_s - self._window_began_s
        if elapsed_s >= 2:
            self.rows_s = self._window_rows / elapsed_s if self._window_began_s else 0.0
            self._window_rows, self._window_began_s = 0, now_s
