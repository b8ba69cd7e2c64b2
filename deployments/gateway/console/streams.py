"""The gateway's way to what streams have read, and what it tells. Who implements it lives above this room, and knows Kafka."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Protocol

from pydantic import Field

from cluster.commands.command import Message
from cluster.commands.streams.moves import PARTITIONS_MOST, StreamDocument

LETTERS_MOST = 2000  # that are looked at, or chosen, at a time


class LetterRange(Message):
    """Part of a partition of the topic of dead letters: offsets from `begin`, up to but without `end`."""

    partition: int = Field(ge=0)
    begin: int = Field(ge=0)
    end: int = Field(ge=0)


class LetterPlace(Message):
    """Where a dead letter lies in its topic."""

    partition: int = Field(ge=0)
    offset: int = Field(ge=0)


class LetterReason(Message):
    """Why some dead letters could not be scored. In `message` numbers are left out (#), so that alike ones count together; `key`
    stands for all three. Times are of the first and the last of them (Unix, milliseconds)."""

    key: str
    stage: str
    exception: str
    message: str
    letters: int
    first_ms: int
    last_ms: int


class LetterRow(Message):
    """One dead letter: where it lies, where its record came from, and the key of its reason."""

    partition: int
    offset: int
    at_ms: int
    origin: str
    reason: str
    value_bytes: int


class DeadLetters(Message):
    """The newest dead letters. `ranges` is what was looked at, `letters` how many lay there and `rows` the newest of
    these; `kept` is how many offsets the whole topic has; `more`: older ones are there."""

    topic: str
    kept: int
    ranges: tuple[LetterRange, ...]
    letters: int
    more: bool
    reasons: tuple[LetterReason, ...]
    rows: tuple[LetterRow, ...]


class ShownAs(StrEnum):
    """What stands for a payload on a screen."""

    TEXT = "text"
    HEX = "hex"
    NOTHING = "nothing"
    """There is none, or none that may be shown."""


class DeadLetter(Message):
    """One dead letter, as it may be shown: `note` says what was cut or kept back, and why. Headers are those that its record
    had."""

    row: LetterRow
    reason: LetterReason
    key: str
    headers: tuple[tuple[str, str], ...]
    shown_as: ShownAs
    value: str
    note: str
    trace: str


class LetterChoice(Message):
    """Which dead letters to score again: of what was looked at those of one `reason`, or all, or `only` these."""

    ranges: tuple[LetterRange, ...] = Field(min_length=1, max_length=PARTITIONS_MOST)
    reason: str = Field(default="", max_length=64)
    only: tuple[LetterPlace, ...] = Field(default=(), max_length=LETTERS_MOST)


class SeekPart(Message):
    """One partition of an input (`topic/number`): where the stream stands (None: nowhere yet), where it would go on,
    and the times of the records there (Unix, milliseconds; None where there is none)."""

    partition: str
    at: int | None = Field(ge=0)
    to: int = Field(ge=0)
    at_ms: int | None = None
    to_ms: int | None = None

    @property
    def skips(self) -> int:
        """How many records are not scored, at most: some offsets hold none."""
        return max(self.to - (self.at or 0), 0) if self.at is not None else 0

    @property
    def repeats(self) -> int:
        """How many are scored again, at most."""
        return max(self.at - self.to, 0) if self.at is not None else 0


class SeekPlan(Message):
    """Where each partition would go on. `to` is as it was asked for: earliest, latest, or a time."""

    to: str = Field(max_length=100)
    parts: tuple[SeekPart, ...] = Field(min_length=1, max_length=PARTITIONS_MOST)


class StreamMove(Message):
    """A replay or a seek that was begun, and what became of it; times are Unix."""

    id: str
    kind: Literal["replay", "seek"]
    by: str
    state: Literal["running", "done", "failed"]
    words: str
    begun_s: float
    ended_s: float | None = None


class StreamOperations(Protocol):
    """Whoever calls has made sure that it is allowed. Nothing here blocks the loop. Each raises Unreachable where the broker is
    away, NotFound, and NoCapacity where too much is asked at a time."""

    async def dead_letters(self, stream: StreamDocument, before: tuple[LetterRange, ...], reason: str) -> DeadLetters:
        """The newest dead letters; with `before`, those that lie in front of these ranges. Rows are of that reason alone, where
        one is named."""

    async def dead_letter(self, stream: StreamDocument, place: LetterPlace) -> DeadLetter:
        """One of them. Raises NotFound where it is there no more."""

    async def replay(self, stream: StreamDocument, choice: LetterChoice, replay: str, by: str) -> StreamMove:
        """Begins to score them again."""

    async def preview(self, stream: StreamDocument, to: str) -> SeekPlan:
        """What it would mean to go to `earliest`, `latest` or an ISO time. Raises BadInput."""

    async def check(self, stream: StreamDocument, plan: SeekPlan) -> None:
        """Raises Conflict where the stream's partitions stand otherwise than the plan was made for, or something is done to it
        just now. One that runs may have gone on, and nothing else."""

    async def seek(self, stream: StreamDocument, plan: SeekPlan, by: str, stopped_s: float | None) -> StreamMove:
        """Begins to move a stream that is being stopped, since `stopped_s`: then it runs again afterwards."""

    async def moves(self, stream: str) -> tuple[StreamMove, ...]:
        """What was begun of late, newest first."""
