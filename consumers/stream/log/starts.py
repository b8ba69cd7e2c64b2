"""Where a partition begins: decided here and nowhere else, for every Kafka client alike. Pure.

No client resets a position by itself: what it did when a commit was not yet stable was to begin anew, and a whole partition was
scored twice. So each partition that a member gains is placed by these rules, and read only then:

1. what the group has committed;
2. nothing committed, and the stream never began: as its document says (`begin`);
3. nothing committed, and the partition, or a topic that the pattern takes in, appeared later: its first record;
4. committed, but deleted since by the topic's retention: the next record that exists, and the gap is told;
5. another topic of the same name: its first record;
6. a commit that is missing otherwise, that is not yet stable, or that lies past the end: held, until a person says more.

What a stream remembers of its topics is kept as notes, since a group forgets: a broker drops the commits of a group that rests
for a week, and those of a topic that is deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from consumers.stream.log.port import Partition
from consumers.stream.spec import Begin, StreamInput


class Notes(Protocol):
    """What a stream remembers when its workers have ended. Both may block for seconds, are idempotent, and raise Unreachable."""

    def load(self) -> Mapping[str, str]:
        """All notes."""

    def add(self, notes: Mapping[str, str]) -> None:
        """Adds these to the notes, in place of those of the same keys."""


class NotesInProcess:
    """Notes that end with this process: for a replay, whose group has commits from its beginning, and for tests."""

    def __init__(self) -> None:
        self._notes: dict[str, str] = {}

    def load(self) -> Mapping[str, str]:
        """See Notes."""
        return dict(self._notes)

    def add(self, notes: Mapping[str, str]) -> None:
        """See Notes."""
        self._notes.update(notes)


@dataclass(frozen=True, slots=True)
class SeenTopic:
    """A topic as the broker tells it. `id` is another one where a topic of this name was deleted and made anew."""

    id: str
    partitions: int


@dataclass(frozen=True, slots=True)
class Committed:
    """What the group has committed of a partition. `topic_id` is that of the topic it was committed for, where it says so."""

    offset: int
    topic_id: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What the broker says of one partition. `unstable`: an open transaction holds a commit of it. `[first, end)` exists."""

    topic: SeenTopic
    committed: Committed | None
    unstable: bool
    first: int
    end: int


TOPIC_ID = "topic="
SAY_WHERE = "say with `headrace stream seek` where the stream goes on"


def metadata_of(topic_id: str) -> str:
    """What is committed beside each offset."""
    return TOPIC_ID + topic_id


def committed(offset: int, metadata: str) -> Committed:
    """What is committed, with the topic's id where it was a Headrace that committed it."""
    return Committed(offset, metadata.removeprefix(TOPIC_ID) if metadata.startswith(TOPIC_ID) else "")


class StartReason(StrEnum):
    """Why a partition begins where it does."""

    COMMITTED = "committed"
    FIRST_START = "first start"
    NEW_PARTITION = "the partition was added"
    NEW_TOPIC = "the topic is new to the pattern"
    GAP = "what was committed next exists no more"
    ANOTHER_TOPIC = "another topic of the same name"


@dataclass(frozen=True, slots=True)
class StartOffset:
    """Where a partition begins. `missing` counts the offsets between what was committed and what exists."""

    offset: int
    why: StartReason
    topic_id: str
    missing: int = 0

    def __str__(self) -> str:
        gap = f"; {self.missing} offsets are missing" if self.missing else ""
        return f"from {self.offset}: {self.why}{gap}"


@dataclass(frozen=True, slots=True)
class Held:
    """Why a partition is not read. `passing`: it will end by itself."""

    reason: str
    passing: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """The notes of one group, readable: topics as first seen, and the partitions that have begun, with their topic's id."""

    topics: Mapping[str, SeenTopic]
    begun: Mapping[Partition, str]

    @property
    def empty(self) -> bool:
        """Whether the stream never began, as far as it remembers."""
        return not self.begun


def read_memory(group: str, notes: Mapping[str, str]) -> Memory:
    """The notes of the group; those of other groups are left out."""
    topics: dict[str, SeenTopic] = {}
    begun: dict[Partition, str] = {}
    for key, value in notes.items():
        owner, _, where = key.partition("/")
        if owner != group:
            continue
        topic, _, number = where.partition("/")
        if number:
            begun[Partition(topic, int(number))] = value
        else:
            topic_id, _, count = value.partition("/")
            topics[topic] = SeenTopic(topic_id, int(count))
    return Memory(topics, begun)


def notes_of(group: str, topics: Mapping[str, SeenTopic], begun: Mapping[Partition, str]) -> dict[str, str]:
    """What to remember of these topics, and of these partitions that have begun. No name holds a slash."""
    notes = {f"{group}/{name}": f"{topic.id}/{topic.partitions}" for name, topic in topics.items()}
    return notes | {f"{group}/{partition.topic}/{partition.number}": topic_id for partition, topic_id in begun.items()}


def new_notes(group: str, memory: Memory, topics: Mapping[str, SeenTopic], begun: Mapping[Partition, str]) -> dict[str, str]:
    """Those of `notes_of` that the memory lacks. A topic keeps the number of partitions that it was first seen with."""
    seen = {name: topic for name, topic in topics.items() if name not in memory.topics or memory.topics[name].id != topic.id}
    lacking = {partition: topic_id for partition, topic_id in begun.items() if memory.begun.get(partition) != topic_id}
    return notes_of(group, seen, lacking)


def place(partition: Partition, found: Found, memory: Memory, chosen: StreamInput, *, older: bool) -> StartOffset | Held:
    """Where the partition begins. `older`: the group has commits of a Headrace that wrote neither notes nor topic ids."""
    if found.unstable:
        return Held("an open transaction holds what is committed of it", passing=True)
    if found.committed is not None:
        return _from_commit(partition, found, found.committed, memory)
    return _from_nothing(partition, found, memory, chosen, older=older)


def _from_commit(partition: Partition, found: Found, committed: Committed, memory: Memory) -> StartOffset | Held:
    topic = found.topic
    meant = committed.topic_id or memory.begun.get(partition, topic.id)
    if meant != topic.id:
        return StartOffset(found.first, StartReason.ANOTHER_TOPIC, topic.id)
    if committed.offset < found.first:
        return StartOffset(found.first, StartReason.GAP, topic.id, found.first - committed.offset)
    if committed.offset > found.end:
        return Held(f"{committed.offset} is committed, but it ends at {found.end}: the broker has lost records; {SAY_WHERE}")
    return StartOffset(committed.offset, StartReason.COMMITTED, topic.id)


def _from_nothing(partition: Partition, found: Found, memory: Memory, chosen: StreamInput, *, older: bool) -> StartOffset | Held:
    topic, known = found.topic, memory.topics.get(partition.topic)
    begin = found.first if chosen.begin is Begin.EARLIEST else found.end
    began_as = memory.begun.get(partition)
    if began_as == topic.id:
        return Held(f"the group's commit of it is gone; {SAY_WHERE}")
    if began_as is not None or (known is not None and known.id != topic.id):
        return StartOffset(found.first, StartReason.ANOTHER_TOPIC, topic.id)
    if older:
        # Where a partition had no record yet, it committed nothing.
        return StartOffset(found.first, StartReason.NEW_PARTITION, topic.id)
    if known is not None:
        # One of the first partitions, which no member came to yet; or one that was added since.
        of_the_first = partition.number < known.partitions
        return (
            StartOffset(begin, StartReason.FIRST_START, topic.id)
            if of_the_first
            else StartOffset(found.first, StartReason.NEW_PARTITION, topic.id)
        )
    if not memory.empty and chosen.pattern:
        return StartOffset(found.first, StartReason.NEW_TOPIC, topic.id)
    return StartOffset(begin, StartReason.FIRST_START, topic.id)


def labelled(found: Iterable[tuple[Partition, StartOffset | Held]]) -> str:
    """A line for the log: each partition and where it begins, or why it is held."""
    return ", ".join(f"{partition.topic}/{partition.number} {what}" for partition, what in found)
