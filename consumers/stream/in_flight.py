"""What is taken and not committed: scored in any order, concluded in the order in which it was taken, held where it can't be."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from cluster.errors import BadInput, EngineFailure, HeadraceError, NoCapacity, NotFound, Unreachable
from consumers.stream.breaker import Breaker, backoff_s
from consumers.stream.counters import Counters
from consumers.stream.micro_batch import MicroBatch, SliceOutcome
from consumers.stream.phases import WorkerPhases
from consumers.stream.traced import within
from deployments.scoring.port import Scored

MOST_IN_FLIGHT = 32  # while one commit runs, as many as get ready wait for the next; `max_in_flight_bytes` is the real bound

Conclude = Callable[[MicroBatch, Scored], list[SliceOutcome]]


class InFlight:
    """The micro-batches of one worker, oldest first. Its thread changes them; any thread may ask how much it is.

    `score` begins to score one, and raises NotFound, BadInput and Unreachable where that can't be done now.
    """

    def __init__(
        self,
        score: Callable[[MicroBatch], None],
        phases: WorkerPhases,
        counters: Counters,
        *,
        breaker_rows: int,
        most_bytes: int,
    ) -> None:
        self._score, self._phases, self._counters, self._most_bytes = score, phases, counters, most_bytes
        self._batches: deque[MicroBatch] = deque()
        self.breaker = Breaker(breaker_rows)

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self._batches)

    def __bool__(self) -> bool:
        return bool(self._batches)

    @property
    def rows(self) -> int:
        """Rows taken and not committed."""
        return sum(batch.rows for batch in list(self._batches))

    @property
    def size_bytes(self) -> int:
        """Bytes of the values that wait: of those taken until they are scored, of what leaves until it is committed."""
        return sum(batch.size_bytes for batch in list(self._batches))

    @property
    def oldest_s(self) -> float | None:
        """When the oldest of them was taken (monotonic); None where there is none."""
        return next((batch.taken_s for batch in list(self._batches)), None)

    @property
    def has_room(self) -> bool:
        """Whether another may be taken: none while one is held."""
        held = any(batch.attempt for batch in self._batches)
        return not held and len(self._batches) < MOST_IN_FLIGHT and self.size_bytes < self._most_bytes

    @property
    def next_up(self) -> MicroBatch | None:
        """The oldest that is not concluded."""
        return next((batch for batch in self._batches if batch.outcomes is None), None)

    def add(self, taken: Iterable[MicroBatch]) -> None:
        """Begins to score what was just taken."""
        new = list(taken)
        self._batches += new
        for batch in new:
            self._try_to_score(batch)

    def drop(self, batches: int) -> None:
        """The oldest are done."""
        for _ in range(batches):
            self._batches.popleft()

    def clear(self) -> None:
        """All are left; what is not committed is taken again."""
        self._batches.clear()

    def conclude(self, now_s: float, outcomes_of: Conclude) -> None:
        """Makes what leaves of all that is scored, in order: the next commit takes as much as is ready when the last one ends."""
        for batch in self._batches:
            if batch.outcomes is None and not self._concluded(batch, now_s, outcomes_of):
                return

    def _concluded(self, batch: MicroBatch, now_s: float, outcomes_of: Conclude) -> bool:
        if batch.scored is None:
            if now_s >= batch.not_before_s:
                self._try_to_score(batch)
            return False
        if not batch.scored.done():
            return False
        try:
            scored = batch.scored.result()
        except (NoCapacity, Unreachable, NotFound, BadInput, EngineFailure) as error:
            # BadInput here blames the whole call: the signature moved on between decoding and scoring.
            self._hold(batch, error)
            return False
        if (broken := self._circuit(scored)) is not None:
            self._hold(batch, broken)
            return False
        self._phases.held_no_more()
        with within(batch.span, "encode"):
            outcomes = outcomes_of(batch, scored)
        batch.conclude(outcomes)
        return True

    def _circuit(self, scored: Scored) -> EngineFailure | None:
        """Why nothing of this may be written off as dead letters, where the version fails every row."""
        failed = sum(isinstance(error, EngineFailure) for error in scored.errors.values())
        answered = len(scored.versions) - len(scored.errors)
        self.breaker = self.breaker.after(answered_rows=answered, failed_rows=failed)
        if not (self.breaker.open and failed):
            return None
        worst = next(error for error in scored.errors.values() if isinstance(error, EngineFailure))
        return EngineFailure(f"circuit open, every row fails: {worst.what}", where=worst.where, remedy=worst.remedy)

    def _try_to_score(self, batch: MicroBatch) -> None:
        try:
            self._score(batch)
        except (NotFound, BadInput, Unreachable) as error:
            self._hold(batch, error)

    def _hold(self, batch: MicroBatch, error: HeadraceError) -> None:
        batch.attempt += 1
        batch.scored = None
        batch.not_before_s = time.monotonic() + backoff_s(batch.attempt)
        self._counters.retries += 1
        self._phases.hold(str(error))
