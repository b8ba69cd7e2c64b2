"""The log on Apache Kafka: what is the same for every client. What differs is a GroupReader and a GroupWriter each.

The caller's thread polls, and one thread of our own writes and commits. `reading` knows which partitions are ours and where they
begin; here it is put together with what is committed, and when.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from cluster.errors import Unreachable
from consumers.stream.kafka.commit_thread import CommitThread, refused
from consumers.stream.kafka.reading import Reading
from consumers.stream.kafka.topic_settings import TopicSettings
from consumers.stream.kafka.topic_watch import TopicWatch
from consumers.stream.kafka.written_topics import WrittenTopics
from consumers.stream.log.port import Member, Outgoing, OwnedPartition, Partition, Records, TopicLimits
from consumers.stream.log.starts import StartOffset, metadata_of
from consumers.stream.spec import Guarantee

KEEP_ALIVE_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class GroupOffset:
    """What is committed of a partition: where reading goes on, and of which topic."""

    offset: int
    topic_id: str

    @property
    def metadata(self) -> str:
        """What is committed beside the offset."""
        return metadata_of(self.topic_id)


Offsets = Mapping[Partition, GroupOffset]


class GroupReader(Protocol):
    """A client's consumer, as one member of the stream's group. Called from the thread that polls; all raise Unreachable.

    It tells `Reading` what it gains and loses, and hands out only what that takes.
    """

    polled_s: float  # when it was last polled (monotonic)

    def poll(self, max_rows: int, timeout_s: float) -> list[Records]:
        """See Log."""

    def stay(self, held_rows: int) -> list[Records]:
        """A poll that keeps the member in the group and should bring little, where so many rows wait already: what it brought."""

    def begin(self, due: Mapping[Partition, int]) -> None:
        """Reads these from now on, from these offsets."""

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Reads these no more, until they begin again."""

    def group(self) -> object:
        """The member's name and generation, as the client's producer wants it."""

    def commit(self, offsets: Offsets, *, wait: bool) -> None:
        """Commits by itself, at least once: without waiting, or until it is done."""

    def commit_starts(self, offsets: Offsets) -> Future[None]:
        """Commits by itself where partitions begin."""

    def trouble(self) -> str:
        """See Log."""

    def check_name(self) -> None:
        """Asks whether this member's name is still its own. Raises Conflict where another took it. May block for seconds."""

    def close(self, *, quickly: bool = False) -> None:
        """Ends the client, in bounded time. `quickly`: it has done nothing yet."""


class GroupWriter(Protocol):
    """A client's producer. `open` and `drop` are called from the thread that polls, the rest from the one that commits."""

    def open(self, largest_bytes: int) -> None:
        """Makes a producer for records of up to so many bytes; a transactional one fences what went by its name before."""

    def drop(self) -> None:
        """Throws the producer away with what is in it. Does not wait."""

    def transaction(self, outgoing: Sequence[Outgoing], offsets: Offsets, group: object) -> None:
        """Writes and commits, all or nothing. Blocks; raises Unreachable or RecordRefused."""

    def write(self, outgoing: Sequence[Outgoing]) -> None:
        """Writes, and waits until all is written. Raises Unreachable or RecordRefused."""


@dataclass(frozen=True, slots=True)
class StreamTopics:
    """What is known of the topics that the stream reads and writes."""

    watch: TopicWatch
    settings: TopicSettings
    written: WrittenTopics


class KafkaLog:
    """See Log. Made in the thread that polls. Raises Unreachable where the broker does not answer."""

    def __init__(
        self,
        member: Member,
        guarantee: Guarantee,
        topics: StreamTopics,
        reading: Reading,
        reader: GroupReader,
        writer: GroupWriter,
    ) -> None:
        self._member, self._topics = member, topics
        self._exactly_once = guarantee is Guarantee.EXACTLY_ONCE
        self._reading, self._reader, self._writer = reading, reader, writer
        self._early: list[Records] = []  # what came while the caller wanted nothing
        self._to_commit: dict[Partition, GroupOffset] = {}  # at least once: written, and committed by the next call that polls
        self._closed = False
        try:
            writer.open(topics.settings.smallest)
        except BaseException:
            reader.close(quickly=True)
            raise
        self._thread = CommitThread()
        topics.watch.begin()

    def poll(self, *, max_rows: int, timeout_s: float) -> list[Records]:
        """See Log."""
        self._flush_offsets()
        if self._early:
            early, self._early = self._early, []
            return [records for records in early if records.epoch == self.epoch(records.partition)]
        self._begin_due()
        return self._reader.poll(max_rows, timeout_s)

    def keep_alive(self) -> None:
        """See Log."""
        self._flush_offsets()
        if time.monotonic() - self._reader.polled_s >= KEEP_ALIVE_EVERY_S:
            self._begin_due()
            self._early += self._reader.stay(sum(map(len, self._early)))

    def commit(self, outgoing: Sequence[Outgoing], upto: Mapping[Partition, int]) -> Future[None]:
        """See Log."""
        self._flush_offsets()  # should this one fail, the last one's records are done all the same
        # The generation first: one that is newer than our look at the partitions would let us commit what is ours no more.
        group = self._reader.group()
        if any(self.epoch(partition) is None for partition in upto):
            # The broker checks who commits, not for which partitions.
            return refused(Unreachable("the partitions are another member's now", where=self._member.group, remedy="recover"))
        offsets = {partition: GroupOffset(offset, self._reading.topic_id(partition)) for partition, offset in upto.items()}
        if self._exactly_once:
            return self._thread.submit(partial(self._transaction, outgoing, offsets, group))
        return self._thread.submit(partial(self._write, outgoing, offsets))

    def recover(self) -> None:
        """See Log."""
        self._drop_producer()
        self._reader.check_name()  # a new producer would fence the member that took over
        self._topics.settings.renew()
        self._writer.open(self._topics.settings.smallest)
        with contextlib.suppress(Unreachable):  # at-least-once offsets: their records come again
            self._flush_offsets(wait=True)
        self._early.clear()
        self._reader.pause(self._reading.go_back())

    def trouble(self) -> str:
        """See Log."""
        return self._reader.trouble()

    def epoch(self, partition: Partition) -> int | None:
        """See Log."""
        return self._reading.epoch(partition)

    def position(self, partition: Partition) -> int | None:
        """See Log."""
        return self._reading.position(partition)

    def partitions_of(self, topic: str) -> int:
        """See Log."""
        return self._topics.written.partitions_of(topic)

    def limits_of(self, topic: str) -> TopicLimits:
        """See Log."""
        return self._topics.settings.of(topic)

    def owned(self) -> dict[Partition, OwnedPartition]:
        """See Log."""
        return self._reading.owned()

    def close(self) -> None:
        """See Log."""
        if self._closed:
            return
        self._closed = True
        self._topics.watch.close()
        self._drop_producer()
        self._thread.end()
        with contextlib.suppress(Unreachable):  # at-least-once offsets: the next member reads the records again
            self._flush_offsets(wait=True)
        self._reader.close()

    # --- inside

    def _begin_due(self) -> None:
        """Begins to read those partitions of which it is known by now where."""
        if moved := self._reading.moved():
            self._reader.pause(moved)
        if due := self._reading.due(self._commit_starts):
            self._reader.begin(due)

    def _commit_starts(self, starts: Mapping[Partition, StartOffset]) -> Future[None]:
        group = self._reader.group()
        offsets = {partition: GroupOffset(start.offset, start.topic_id) for partition, start in starts.items()}
        if self._exactly_once:
            # As a transaction, so that it can't come late: what is sent after it would be undone by a plain commit.
            return self._thread.submit_start(partial(self._transaction, (), offsets, group))
        return self._reader.commit_starts(offsets)

    def _flush_offsets(self, *, wait: bool = False) -> None:
        if not self._to_commit or self._thread.busy:
            return
        offsets = {partition: to for partition, to in self._to_commit.items() if self.epoch(partition) is not None}
        self._to_commit = {}
        if offsets:
            self._reader.commit(offsets, wait=wait)
            self._reading.commit(_upto(offsets))

    def _drop_producer(self) -> None:
        """A commit that hangs in the producer is left behind with its thread."""
        self._writer.drop()
        self._thread.leave_behind()

    # --- the committing thread

    def _transaction(self, outgoing: Sequence[Outgoing], offsets: Offsets, group: object) -> None:
        self._writer.transaction(outgoing, offsets, group)
        self._reading.commit(_upto(offsets))

    def _write(self, outgoing: Sequence[Outgoing], offsets: Offsets) -> None:
        self._writer.write(outgoing)
        self._to_commit.update(offsets)  # by the polling thread, which knows what is still ours


def _upto(offsets: Offsets) -> dict[Partition, int]:
    return {partition: to.offset for partition, to in offsets.items()}
