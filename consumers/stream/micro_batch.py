"""Records on their way through a worker, and what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from consumers.stream.codecs.codec import Decoded, Encoder
from consumers.stream.log.port import Outgoing, Partition, Records
from consumers.stream.payloads.taken import TakenPayloads
from consumers.stream.traced import batch_span
from deployments.drift.version_counting import DrawnRows
from deployments.observe.traces.span import Span
from deployments.scoring.port import Scored


@dataclass(frozen=True, slots=True)
class SliceOutcome:
    """What leaves for the records of one slice, and how far that brings their partition. `epoch`: when they were taken.

    `first` is the offset of the first record, and `first_ms` its time (Unix, ms). `versions` tells how many rows each version
    answered, `dead` how many became dead letters by an error of each kind. `payloads` go to the payload log once it is
    committed, `spans` to where traces go, and `drawn` to what is counted of rows.
    """

    partition: Partition
    epoch: int
    first: int
    upto: int
    outgoing: Sequence[Outgoing]
    rows_in: int
    rows_out: int
    rows_dead: int
    first_ms: int = 0
    versions: Mapping[int, int] = field(default_factory=dict)
    dead: Mapping[str, int] = field(default_factory=dict)
    payloads: TakenPayloads | None = None
    spans: Sequence[Span] = ()
    drawn: Sequence[DrawnRows] = ()


@dataclass
class MicroBatch:
    """`outcomes` are there once it is scored. `attempt` counts retries, none before `not_before_s` (monotonic, as `taken_s`).

    `size_bytes` are those of the values, and once they are scored those of what leaves for them. `span` is there where one of
    the records is traced.
    """

    slices: list[Records]
    values: list[bytes | None]
    rows: int
    size_bytes: int
    decoded: Decoded | None = None
    encoder: Encoder | None = None
    scored: Future[Scored] | None = None
    outcomes: list[SliceOutcome] | None = None
    attempt: int = 0
    taken_s: float = field(default_factory=time.monotonic)
    not_before_s: float = 0.0
    span: Span | None = None

    @classmethod
    def of(cls, slices: list[Records]) -> MicroBatch:
        """What was just taken."""
        values = [value for s in slices for value in s.values]
        return cls(slices, values, len(values), sum(s.size_bytes for s in slices), span=batch_span(slices))

    def conclude(self, outcomes: list[SliceOutcome]) -> None:
        """Keeps what leaves, and lets go of what it was made of: a commit may be far off."""
        self.outcomes = outcomes
        self.size_bytes = sum(out.size_bytes for outcome in outcomes for out in outcome.outgoing)
        self.slices, self.values = [], []
        self.decoded = self.encoder = self.scored = None
