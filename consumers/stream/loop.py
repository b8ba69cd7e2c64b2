"""The worker of a stream: poll, decode, score, encode, commit; scoring of the next micro-batch overlaps the commit of the last.

One thread runs it. The order of each partition is kept, because micro-batches are committed in the order in which they were
taken. A bad record goes to the dead letters; transient trouble holds the same micro-batch and tries again; a log that fails is
recovered to its committed offsets, so nothing is lost, and nothing doubled where exactly once is promised; a record that the
broker refuses is found by smaller commits (`refusals`), and becomes a dead letter.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster.errors import BadInput, HeadraceError, NotFound, Unreachable
from cluster.foreign import kind_and_words
from consumers.stream.breaker import Breaker, backoff_s
from consumers.stream.committing import Committing, owns
from consumers.stream.counters import Counters
from consumers.stream.in_flight import InFlight
from consumers.stream.intake import Intake, ScorerPort
from consumers.stream.log.port import Header, Log, OwnedPartition, Partition, RecordRefused
from consumers.stream.outgoing.answers import answer_template
from consumers.stream.outgoing.outcomes import Outcomes
from consumers.stream.phases import WorkerPhase, WorkerPhases
from consumers.stream.sealed.book import SubjectBook
from consumers.stream.sealed.sealing import sealer_of
from consumers.stream.spec import StreamSpec
from consumers.stream.stream_meter import StreamMeter
from consumers.stream.stuck import Stuck
from consumers.stream.traced import RecordTracer
from deployments.drift.drift_sample import DriftSample
from deployments.observe.meters import Meters
from deployments.observe.payloads.log import PayloadLog
from deployments.observe.traces.tracer import Tracer

logger = logging.getLogger(__name__)

IDLE_POLL_S = 0.2
BUSY_WAIT_S = 0.005
DRAIN_S = 20.0


@dataclass(frozen=True, slots=True)
class _Open:
    """What there is once the log is open."""

    log: Log
    outcomes: Outcomes


class Loop:
    """One stream's worker. `run` blocks its thread until `stop`; everything else may be called from any thread.

    `make_log` opens the log inside the worker's thread; `extra_headers` go on everything it writes. `run` raises Conflict where
    another member of its name took over; all else that it raises is a fault of ours. `intake` takes the place of the one that
    scores every record, and `subjects` has the keys of fields that are encrypted. `last_turn_s` is when it last went round
    (monotonic).
    """

    def __init__(
        self,
        name: str,
        spec: StreamSpec,
        scoring: ScorerPort,
        make_log: Callable[[], Log],
        extra_headers: Sequence[Header] = (),
        meters: Meters | None = None,
        payloads: PayloadLog | None = None,
        tracer: Tracer | None = None,
        drift: DriftSample | None = None,
        intake: Intake | None = None,
        subjects: SubjectBook | None = None,
    ) -> None:
        self.name, self.spec, self._subjects = name, spec, subjects
        self.counters = Counters()
        self._meter = StreamMeter(meters or Meters(), name, spec.model)
        if meters is not None:
            meters.before_each_report(self._tell)
        self._payloads, self._drift = payloads, drift
        self.last_turn_s = time.monotonic()
        self._make_log = make_log
        self._form = answer_template(spec, extra_headers)
        self._phases = WorkerPhases()
        self._tracer = RecordTracer(tracer, name, spec.model, spec.group_of(name)) if tracer is not None else None
        self._intake = intake or Intake(spec, scoring, self._tracer, subjects)
        self._in_flight = InFlight(
            self._intake.score,
            self._phases,
            self.counters,
            breaker_rows=spec.breaker_rows,
            most_bytes=spec.max_in_flight_bytes,
        )
        self._committing = Committing(self._in_flight, spec.transaction_timeout_s)
        self._log: Log | None = None
        self._stop = threading.Event()

    def stop(self) -> None:
        """Asks the worker to commit what it has taken and end."""
        self._stop.set()

    @property
    def phase(self) -> WorkerPhase:
        """How it is doing."""
        return self._phases.phase

    @property
    def message(self) -> str:
        """Why it is doing so; empty where all is well."""
        return self._phases.message

    @property
    def stuck(self) -> Stuck:
        """Whether it goes back to the same records again and again."""
        return self._phases.stuck

    @property
    def breaker(self) -> Breaker:
        """Whether the version fails every row."""
        return self._in_flight.breaker

    @property
    def in_flight_rows(self) -> int:
        """Rows taken and not committed."""
        return self._in_flight.rows

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of the values that wait: of those taken until they are scored, of what leaves until it is committed."""
        return self._in_flight.size_bytes

    def owned(self) -> Mapping[Partition, OwnedPartition]:
        """What is known of each partition owned; empty before the log is open."""
        return self._log.owned() if self._log is not None else {}

    def lag(self) -> dict[Partition, int]:
        """Records that can be read and are not committed, by partition that is read."""
        return {partition: known.lag for partition, known in self.owned().items() if known.began_at is not None}

    def run(self) -> None:
        """Works until `stop`, then drains."""
        try:
            if (opened := self._open()) is not None:
                self._work(opened)
        except BaseException as error:
            self._phases.enter(WorkerPhase.FAILED, kind_and_words(error))
            logger.exception("stream %s failed", self.name)
            raise
        else:
            self._phases.enter(WorkerPhase.STOPPED, self.message)
        finally:
            self._intake.close()
            if self._log is not None:
                self._log.close()

    def _open(self) -> _Open | None:
        """None where the stop came first."""
        attempt = 0
        while not self._stop.is_set():
            try:
                self._log = log = self._make_log()
                topics = (self.spec.output.topic, self.spec.dead_letters.topic)
                partitions = {topic: log.partitions_of(topic) for topic in topics}
                sealer = sealer_of(self.spec, self._subjects)
                outcomes = Outcomes(self.name, self.spec, self._form, partitions, log.limits_of, sealer)
            except (Unreachable, NotFound, BadInput) as error:
                if self._log is not None:
                    self._log.close()
                    self._log = None
                attempt += 1
                self._phases.say(str(error))
                logger.warning("stream %s can't open its log: %s", self.name, error)
                self.last_turn_s = time.monotonic()
                self._stop.wait(backoff_s(attempt))
            else:
                self._phases.say("")
                return _Open(log, outcomes)
        return None

    def _work(self, opened: _Open) -> None:
        deadline_s = float("inf")
        while True:
            self.last_turn_s = now_s = time.monotonic()
            self.counters.look(now_s)
            if self._stop.is_set() and deadline_s == float("inf"):
                self._phases.drain()
                deadline_s = now_s + DRAIN_S
            if self._stop.is_set() and (now_s > deadline_s or not (self._in_flight or self._committing.under_way)):
                return
            try:
                self._turn(opened, now_s)
            except (Unreachable, RecordRefused) as error:
                if not self._recover(opened.log, error):
                    return
            else:
                self._phases.unstick(self.stuck.after_turn(now_s))

    def _turn(self, opened: _Open, now_s: float) -> None:
        log = opened.log
        self._reap_commit(log, now_s)
        self._begin_commit(log, now_s)
        now_ms, refused = int(time.time() * 1000), self._committing.refusals.refused
        self._in_flight.conclude(now_s, partial(opened.outcomes.of, now_ms=now_ms, refused=refused))
        self._begin_commit(log, now_s)
        trouble = log.trouble()
        self._phases.look(trouble)
        if self._has_room:
            timeout_s = 0.0 if self._in_flight or self._committing.under_way else IDLE_POLL_S
            taken = self._intake.take(log, self._committing.refusals.most_rows, timeout_s)
            self._phases.polled(trouble)
            if taken:
                self._in_flight.add(taken)
                return
        else:
            log.keep_alive()
        self._await_something()

    @property
    def _has_room(self) -> bool:
        return not self._stop.is_set() and self._in_flight.has_room

    def _begin_commit(self, log: Log, now_s: float) -> None:
        self._committing.begin(log, now_s, filling=self._intake.backlog and self._has_room)

    def _reap_commit(self, log: Log, now_s: float) -> None:
        commit = self._committing.reap(log, now_s)
        if commit is not None:
            plan = commit.plan
            self._phases.unstick(self.stuck.after_commit(plan.upto, partial(owns, log)))
            took_s = now_s - commit.began_s
            self.counters.committed(rows_in=plan.rows, rows_out=plan.rows_out, rows_dead=plan.rows_dead, took_s=took_s)
            self._meter.committed(plan, took_s, int(time.time() * 1000))
            if self._tracer is not None and (spans := [span for outcome in plan.outcomes for span in outcome.spans]):
                self._tracer.committed(spans, self.spec.output.topic, commit.began_s)
            for taken in (outcome.payloads for outcome in plan.outcomes):
                if taken is not None and taken.events and self._payloads is not None:
                    self._payloads.put(taken.settings, self.spec.model, taken.events)
            for drawn in (each for outcome in plan.outcomes for each in outcome.drawn):
                if self._drift is not None:
                    self._drift.put(drawn)

    def _tell(self, _: Meters) -> None:
        oldest_s = self._in_flight.oldest_s
        age_s = 0.0 if oldest_s is None else time.monotonic() - oldest_s
        self._meter.look(self.counters, self.phase, lag=sum(self.lag().values()), in_flight=self.in_flight_rows, oldest_s=age_s)

    def _await_something(self) -> None:
        """Sleeps until the commit or a scoring ends, briefly: new records may arrive meanwhile."""
        next_up, commit = self._in_flight.next_up, self._committing.under_way
        awaited: list[Future[Any]] = [commit.future] if commit is not None else []
        if next_up is not None and next_up.scored is not None:
            awaited.append(next_up.scored)
        if awaited:
            wait(awaited, timeout=BUSY_WAIT_S if self._has_room else 10 * BUSY_WAIT_S, return_when=FIRST_COMPLETED)
        elif next_up is not None:  # held: nothing to do before its next attempt
            self._stop.wait(min(max(next_up.not_before_s - time.monotonic(), 0), 0.25) or BUSY_WAIT_S)

    def _recover(self, log: Log, error: HeadraceError) -> bool:
        """Back to the committed offsets. False where the stop came first: then the next member does it."""
        failed = self._committing.fail(error)
        rebalanced = any(log.epoch(outcome.partition) != outcome.epoch for outcome in failed.outcomes)
        self._in_flight.clear()
        attempt, cause = 0, error
        while True:
            attempt += 1
            self.counters.recoveries += 1
            message = self.stuck.message or str(error)
            if self._stop.is_set():
                self._phases.say(message)
                return False
            self._phases.enter(WorkerPhase.RECOVERING, message)
            logger.warning("stream %s goes back to its committed offsets: %s", self.name, error)
            self.last_turn_s = time.monotonic()
            try:
                log.recover()
            except Unreachable as again:
                error = again
                self._stop.wait(backoff_s(attempt))
            else:
                break
        if attempt == 1 and not rebalanced:  # the broker is there, and the records are ours still
            self._phases.stuck = self.stuck.after_failure(str(cause), failed.firsts, time.monotonic())
        self._phases.recovered()
        if self.stuck.message and (self._committing.refusals.hopeless or not isinstance(cause, RecordRefused)):
            self._stop.wait(backoff_s(self.stuck.recoveries - 1))
        return True
