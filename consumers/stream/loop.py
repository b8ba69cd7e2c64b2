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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cluster.errors import BadInput, EngineFailure, HeadraceError, NoCapacity, NotFound, Unreachable
from cluster.signature import Signature
from consumers.stream.answers import Form, form_of, split_keys
from consumers.stream.breaker import Breaker, backoff_s
from consumers.stream.codecs.codec import Decoder, Encoder
from consumers.stream.codecs.formats import make_decoder, make_encoder
from consumers.stream.codecs.registry import Schemas
from consumers.stream.commits import NOTHING, Commit, cut_up, next_plan
from consumers.stream.counters import Counters, Phase
from consumers.stream.intake import gather
from consumers.stream.log.port import Header, Log, Owned, Partition, RecordRefused
from consumers.stream.micro_batch import MicroBatch
from consumers.stream.outcomes import Outcomes
from consumers.stream.refusals import Refusals
from consumers.stream.spec import StreamSpec
from consumers.stream.stuck import Stuck
from deployments.engines.datatypes import Array
from deployments.scoring.port import Scored

logger = logging.getLogger(__name__)

MOST_IN_FLIGHT = 32  # while one commit runs, as many as get ready wait for the next; `max_in_flight_bytes` is the real bound
# A transaction costs the broker several ms of work, whatever it holds: under a backlog the next begins this long after the last.
BACKLOG_COMMIT_EVERY_S = 0.1
IDLE_POLL_S = 0.2
BUSY_WAIT_S = 0.005
DRAIN_S = 20.0


class Scoring(Protocol):
    """What the loop needs of a scorer; `deployments.scoring.scorer_thread.ScorerThread` is one. Safe to call from any thread."""

    def submit(
        self, model: str, tensors: Mapping[str, Array], keys: Sequence[bytes | None] | None = None, *, donated: bool = False
    ) -> Future[Scored]:
        """Starts scoring n rows and returns at once. See `Scorer.score`, all of whose errors the future raises."""

    def signature(self, model: str, version: int | None = None) -> Signature:
        """The signature of the stable version. Raises NotFound while no version is served."""


@dataclass(frozen=True, slots=True)
class _Codec:
    signature: Signature
    decoder: Decoder
    encoder: Encoder


@dataclass
class Loop:
    """One stream's worker. `run` blocks its thread until `stop`; everything else may be called from any thread.

    `make_log` opens the log inside the worker's thread; `marks` are headers that everything it writes gets. `run` raises Conflict
    where another member of its name took over; all else that it raises is a fault of ours.
    """

    name: str
    spec: StreamSpec
    scoring: Scoring
    make_log: Callable[[], Log]
    marks: tuple[Header, ...] = ()
    counters: Counters = field(default_factory=Counters)
    phase: Phase = Phase.STARTING
    message: str = ""
    breaker: Breaker = field(init=False)
    stuck: Stuck = field(default_factory=Stuck)
    turned_s: float = field(default_factory=time.monotonic)
    _log: Log | None = None
    _in_flight: deque[MicroBatch] = field(default_factory=deque)
    _commit: Commit | None = None
    _refusals: Refusals = field(default_factory=Refusals)
    _codec: _Codec | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _outcomes: Outcomes | None = None
    _schemas: Schemas | None = None
    _backlog: bool = False  # whether the last micro-batch was whole, so that another waits
    _began_s: float = 0.0  # when the last commit began
    _form: Form = field(init=False)

    def __post_init__(self) -> None:
        self._form = form_of(self.spec, self.marks)
        self.breaker = Breaker(self.spec.breaker_rows)

    def stop(self) -> None:
        """Asks the worker to commit what it has taken and end."""
        self._stop.set()

    @property
    def in_flight_rows(self) -> int:
        """Rows taken and not committed."""
        return sum(batch.rows for batch in list(self._in_flight))

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of the values that wait: of those taken until they are scored, of what leaves until it is committed."""
        return sum(batch.size_bytes for batch in list(self._in_flight))

    def owned(self) -> Mapping[Partition, Owned]:
        """What is known of each partition owned; empty before the log is open."""
        return self._log.owned() if self._log is not None else {}

    def lag(self) -> dict[Partition, int]:
        """Records that can be read and are not committed, by partition that is read."""
        return {partition: known.lag for partition, known in self.owned().items() if known.began_at is not None}

    def run(self) -> None:
        """Works until `stop`, then drains."""
        try:
            if self._open():
                self._work()
        except BaseException as error:
            self.phase, self.message = Phase.FAILED, f"{type(error).__name__}: {error}"
            logger.exception("stream %s failed", self.name)
            raise
        else:
            self.phase = Phase.STOPPED
        finally:
            if self._schemas is not None:
                self._schemas.close()
            if self._log is not None:
                self._log.close()

    def _open(self) -> bool:
        attempt = 0
        while not self._stop.is_set():
            try:
                self._log = self.make_log()
                topics = (self.spec.output.topic, self.spec.dead_letters.topic)
                partitions = {topic: self._log.partitions_of(topic) for topic in topics}
                self._outcomes = Outcomes(self.name, self.spec, self._form, partitions, self._log.takes)
            except (Unreachable, NotFound, BadInput) as error:
                if self._log is not None:
                    self._log.close()
                    self._log = None
                attempt += 1
                self.message = str(error)
                logger.warning("stream %s can't open its log: %s", self.name, error)
                self.turned_s = time.monotonic()
                self._stop.wait(backoff_s(attempt))
            else:
                self.message = ""
                return True
        return False

    def _work(self) -> None:
        deadline_s = float("inf")
        while True:
            self.turned_s = now_s = time.monotonic()
            self.counters.look(now_s)
            if self._stop.is_set() and deadline_s == float("inf"):
                self.phase, deadline_s = Phase.DRAINING, now_s + DRAIN_S
            if self._stop.is_set() and (now_s > deadline_s or not (self._in_flight or self._commit)):
                return
            try:
                self._turn(now_s)
            except (Unreachable, RecordRefused) as error:
                if not self._recover(error):
                    return
            else:
                self._unstick(self.stuck.after_turn(now_s))

    def _turn(self, now_s: float) -> None:
        self._reap_commit(now_s)
        self._begin_commit(now_s)
        self._conclude(now_s)
        self._begin_commit(now_s)
        log = self._open_log
        self._look_at(log)
        if self._has_room():
            if taken := self._take(0.0 if self._in_flight or self._commit else IDLE_POLL_S):
                self._in_flight += taken
                for batch in taken:
                    self._score(batch)
                return
        else:
            log.keep_alive()
        self._await_something()

    def _look_at(self, log: Log) -> None:
        """A client polls in vain where its broker is away, so the worker must look for itself."""
        trouble = log.trouble()
        if trouble and self.phase in (Phase.STARTING, Phase.RUNNING, Phase.CUT_OFF):
            self.phase = Phase.STARTING if self.phase is Phase.STARTING else Phase.CUT_OFF
            self.message = trouble
        elif not trouble and self.phase in (Phase.STARTING, Phase.CUT_OFF):
            self._calm()

    def _calm(self) -> None:
        """Whatever it was is over."""
        self.message = self.stuck.told
        self.phase = Phase.HOLDING if self.message else Phase.RUNNING

    def _unstick(self, stuck: Stuck) -> None:
        before, self.stuck = self.stuck, stuck
        if before.told and not stuck.told and self.phase is Phase.HOLDING:
            self._calm()

    @property
    def _open_log(self) -> Log:
        if self._log is None:
            raise RuntimeError("the log is not open")
        return self._log

    @property
    def _open_outcomes(self) -> Outcomes:
        if self._outcomes is None:
            raise RuntimeError("the log is not open")
        return self._outcomes

    def _has_room(self) -> bool:
        taking = not self._stop.is_set() and not any(batch.attempt for batch in self._in_flight)
        return taking and len(self._in_flight) < MOST_IN_FLIGHT and self.in_flight_bytes < self.spec.max_in_flight_bytes

    def _take(self, timeout_s: float) -> list[MicroBatch]:
        """One micro-batch, or several where commits are small."""
        spec, small = self.spec, self._refusals.most_rows
        most = min(spec.max_batch_rows, small or spec.max_batch_rows)
        slices = gather(self._open_log, most, spec.max_in_flight_bytes, linger_s=spec.linger_ms / 1000, timeout_s=timeout_s)
        rows = sum(map(len, slices))
        self._backlog = rows >= most and small is None
        if not rows:
            return []
        return [MicroBatch.of(part) for part in (cut_up(slices, most) if small else [slices])]

    def _score(self, batch: MicroBatch) -> None:
        """Decodes and submits. What can't be done now is tried again by `_conclude`, which sees no future."""
        try:
            codec = self._codec_now()
            headers = [each for s in batch.slices for each in s.headers]
            batch.decoded, batch.encoder = codec.decoder.decode(batch.values, headers), codec.encoder
        except (NotFound, BadInput, Unreachable) as error:
            self._hold(batch, error)
            return
        if batch.decoded.rows:
            keys = [key for s in batch.slices for key in split_keys(s)]
            if len(batch.decoded.rows) != len(keys):
                keys = [keys[row] for row in batch.decoded.rows]
            batch.scored = self.scoring.submit(self.spec.model, batch.decoded.tensors, keys, donated=True)
        else:
            nothing = Scored({}, np.empty(0, dtype=np.int32), {})
            batch.scored = Future()
            batch.scored.set_result(nothing)

    def _codec_now(self) -> _Codec:
        signature = self.scoring.signature(self.spec.model)
        if self._codec is None or (self._codec.signature is not signature and self._codec.signature != signature):
            if self._schemas is None and self.spec.registry is not None:
                self._schemas = Schemas(self.spec.registry)
            decoder = make_decoder(signature, self.spec.input, self._schemas)
            self._codec = _Codec(signature, decoder, make_encoder(signature, self.spec.output, self._schemas))
        return self._codec

    def _conclude(self, now_s: float) -> None:
        """Makes what leaves of all that is scored, in order: the next commit takes as much as is ready when the last one ends."""
        for batch in self._in_flight:
            if batch.outcomes is None and not self._has_outcomes(batch, now_s):
                return

    def _has_outcomes(self, batch: MicroBatch, now_s: float) -> bool:
        if batch.scored is None:
            if now_s >= batch.not_before_s:
                self._score(batch)
            return False
        if not batch.scored.done():
            return False
        try:
            scored = batch.scored.result()
        except (NoCapacity, Unreachable, NotFound, BadInput, EngineFailure) as error:
            # BadInput here blames the whole call: the signature moved on between decoding and scoring.
            self._hold(batch, error)
            return False
        failed = sum(isinstance(error, EngineFailure) for error in scored.errors.values())
        answered = len(scored.versions) - len(scored.errors)
        self.breaker = self.breaker.after(answered_rows=answered, failed_rows=failed)
        if self.breaker.open and failed:
            worst = next(error for error in scored.errors.values() if isinstance(error, EngineFailure))
            what = f"circuit open, every row fails: {worst.what}"
            self._hold(batch, EngineFailure(what, where=worst.where, remedy=worst.remedy))
            return False
        if self.phase is Phase.HOLDING:
            self._calm()
        batch.conclude(self._open_outcomes.of(batch, scored, int(time.time() * 1000), self._refusals.refused))
        return True

    def _hold(self, batch: MicroBatch, error: HeadraceError) -> None:
        batch.attempt += 1
        batch.scored = None
        batch.not_before_s = time.monotonic() + backoff_s(batch.attempt)
        self.counters.retries += 1
        if self.phase is not Phase.DRAINING:
            self.phase = Phase.HOLDING
        self.message = str(error)

    def _begin_commit(self, now_s: float) -> None:
        """What is ready, in one commit. It waits only as long as there is more to take, and room for it."""
        waits = self._backlog and now_s < self._began_s + BACKLOG_COMMIT_EVERY_S and self._has_room()
        if self._commit is not None or waits:
            return
        log = self._open_log
        plan = next_plan(self._in_flight, log.epoch, self._refusals.most_rows)
        if plan.outcomes:
            self._began_s = now_s
            self._commit = Commit(log.commit(plan.outgoing, plan.upto), now_s, plan)
        else:  # every partition of them was taken from us
            self._drop(plan.batches)

    def _drop(self, batches: int) -> None:
        for _ in range(batches):
            self._in_flight.popleft()

    def _reap_commit(self, now_s: float) -> None:
        commit = self._commit
        if commit is None:
            return
        took_s = now_s - commit.began_s
        if not commit.future.done():
            if took_s > self.spec.transaction_timeout_s:
                raise Unreachable(f"a commit took more than {took_s:.0f} s", where="stream", remedy="look at the broker")
            return
        commit.future.result()
        self._commit, plan = None, commit.plan
        self._drop(plan.batches)
        self._refusals = self._refusals.after_commit(plan, self._owns)
        self._unstick(self.stuck.after_commit(plan.upto, self._owns))
        done = plan.outcomes
        rows_in, rows_out, rows_dead = (
            sum(column) for column in zip(*((o.rows_in, o.rows_out, o.rows_dead) for o in done), strict=True)
        )
        self.counters.committed(rows_in=rows_in, rows_out=rows_out, rows_dead=rows_dead, took_s=took_s)

    def _owns(self, partition: Partition) -> bool:
        return self._open_log.epoch(partition) is not None

    def _await_something(self) -> None:
        """Sleeps until the commit or a scoring ends, briefly: new records may arrive meanwhile."""
        next_up = next((batch for batch in self._in_flight if batch.outcomes is None), None)
        awaited: list[Future[Any]] = [self._commit.future] if self._commit is not None else []
        if next_up is not None and next_up.scored is not None:
            awaited.append(next_up.scored)
        if awaited:
            wait(awaited, timeout=BUSY_WAIT_S if self._has_room() else 10 * BUSY_WAIT_S, return_when=FIRST_COMPLETED)
        elif next_up is not None:  # held: nothing to do before its next attempt
            self._stop.wait(min(max(next_up.not_before_s - time.monotonic(), 0), 0.25) or BUSY_WAIT_S)

    def _recover(self, error: HeadraceError) -> bool:
        """Back to the committed offsets. False where the stop came first: then the next member does it."""
        failed = self._commit.plan if self._commit is not None else NOTHING
        rebalanced = any(self._open_log.epoch(outcome.partition) != outcome.epoch for outcome in failed.outcomes)
        if isinstance(error, RecordRefused):
            self._refusals = self._refusals.after_refusal(error, failed)
        self._in_flight.clear()
        self._commit = None
        attempt, cause = 0, error
        while True:
            attempt += 1
            self.counters.recoveries += 1
            self.message = self.stuck.told or str(error)
            if self._stop.is_set():
                return False
            self.phase = Phase.RECOVERING
            logger.warning("stream %s goes back to its committed offsets: %s", self.name, error)
            self.turned_s = time.monotonic()
            try:
                self._open_log.recover()
            except Unreachable as again:
                error = again
                self._stop.wait(backoff_s(attempt))
            else:
                break
        if attempt == 1 and not rebalanced:  # the broker is there, and the records are ours still
            self.stuck = self.stuck.after_failure(str(cause), failed.firsts, time.monotonic())
        self._calm()
        if self.stuck.told and (self._refusals.hopeless or not isinstance(cause, RecordRefused)):
            self._stop.wait(backoff_s(self.stuck.recoveries - 1))
        return True
