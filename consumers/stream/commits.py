"""What goes into a commit, and how far it brings each partition. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from consumers.stream.log.port import Outgoing, Partition, Records, subset
from consumers.stream.micro_batch import MicroBatch, SliceOutcome


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """The oldest `batches`, and what of them is still this member's to commit."""

    batches: int
    outcomes: Sequence[SliceOutcome]

    @property
    def outgoing(self) -> list[Outgoing]:
        """What is written, in order."""
        return [out for outcome in self.outcomes for out in outcome.outgoing]

    @property
    def upto(self) -> dict[Partition, int]:
        """How far each partition is done. A replay's slices of one partition overlap, so the last one may not reach furthest."""
        reached: dict[Partition, int] = {}
        for outcome in self.outcomes:
            reached[outcome.partition] = max(outcome.upto, reached.get(outcome.partition, 0))
        return reached

    @property
    def firsts(self) -> dict[Partition, int]:
        """Its first offset of each partition."""
        found: dict[Partition, int] = {}
        for outcome in self.outcomes:
            found[outcome.partition] = min(outcome.first, found.get(outcome.partition, outcome.first))
        return found

    @property
    def rows(self) -> int:
        """How many records it settles."""
        return sum(outcome.rows_in for outcome in self.outcomes)

    @property
    def rows_out(self) -> int:
        """How many of them are answered."""
        return sum(outcome.rows_out for outcome in self.outcomes)

    @property
    def rows_dead(self) -> int:
        """How many of them become dead letters."""
        return sum(outcome.rows_dead for outcome in self.outcomes)


NOTHING = CommitPlan(0, ())


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit under way."""

    future: Future[None]
    began_s: float
    plan: CommitPlan


def next_plan(in_flight: Iterable[MicroBatch], epoch: Callable[[Partition], int | None], most_rows: int | None) -> CommitPlan:
    """All that is ready of the oldest, whole micro-batches of up to `most_rows` together, or one.

    What was taken in an epoch that is over is left out: it is another member's, or was taken again.
    """
    batches, rows, outcomes = 0, 0, list[SliceOutcome]()
    for batch in in_flight:
        rows += batch.rows
        if batch.outcomes is None or (batches and most_rows is not None and rows > most_rows):
            break
        batches += 1
        outcomes += [outcome for outcome in batch.outcomes if epoch(outcome.partition) == outcome.epoch]
    return CommitPlan(batches, outcomes)


def cut_up(slices: Sequence[Records], most_rows: int) -> list[list[Records]]:
    """The records in parts of up to `most_rows` rows, which in each partition follow each other by offset.

    So to commit some of the parts, in order, never commits past a record that is in none of them.
    """
    if sum(map(len, slices)) <= most_rows:
        return [list(slices)]
    parts: list[list[Records]] = []
    for partition in dict.fromkeys(records.partition for records in slices):
        ours = [records for records in slices if records.partition == partition]
        offsets = sorted(offset for records in ours for offset in records.offsets)
        for start in range(0, len(offsets), most_rows):
            stop = min(start + most_rows, len(offsets))
            parts.append([each for records in ours if len(each := _between(records, offsets[start], offsets[stop - 1] + 1))])
    return parts


def _between(records: Records, begin: int, end: int) -> Records:
    return subset(records, range(bisect_left(records.offsets, begin), bisect_left(records.offsets, end)))
