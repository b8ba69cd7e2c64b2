"""A log in memory, for unit tests: passes the same contract suite as Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from cluster.errors import HeadraceError, NotFound, Unreachable
from consumers.stream.log.port import Header, Outgoing, OwnedPartition, Partition, RecordRefused, Records, TopicLimits
from consumers.stream.log.starts import StartReason

NO_LIMIT_BYTES = 2**31


@dataclass(frozen=True, slots=True)
class Stored:
    """One record as it lies in a topic."""

    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    timestamp_ms: int


@dataclass
class MemoryBroker:
    """Topics, groups and their committed offsets. `fail_next` commits fail with that error, once each.

    `limits` is what a topic says that it takes; `refuses` is why one takes no record such as this, empty where it does.
    """

    topics: dict[str, list[list[Stored]]] = field(default_factory=dict)
    committed: dict[tuple[str, Partition], int] = field(default_factory=dict)
    members: dict[tuple[str, str], list[MemoryLog]] = field(default_factory=dict)
    fail_next: list[HeadraceError] = field(default_factory=list)
    limits: dict[str, TopicLimits] = field(default_factory=dict)
    refuses: Callable[[str, Stored], str] = lambda _topic, _record: ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def create(self, topic: str, partitions: int) -> None:
        """Makes the topic where it is missing."""
        self.topics.setdefault(topic, [[] for _ in range(partitions)])

    def append(self, topic: str, partition: int, record: Stored) -> None:
        """Adds a record at the end of a partition."""
        with self.lock:
            self.topics[topic][partition].append(record)

    def join(self, member: MemoryLog) -> None:
        """Adds a member to its group and shares the partitions out anew; partitions that stay keep their epoch."""
        with self.lock:
            self.members.setdefault((member.group, member.topic), []).append(member)
            self._share(member)

    def leave(self, member: MemoryLog) -> None:
        """Takes a member out of its group, as closing or a lost session does."""
        with self.lock:
            present = self.members.get((member.group, member.topic), [])
            if member in present:
                present.remove(member)
                member.assign([])
                self._share(member)

    def _share(self, member: MemoryLog) -> None:
        present = self.members[member.group, member.topic]
        for i, each in enumerate(present):
            each.assign([Partition(member.topic, n) for n in range(len(self.topics[member.topic])) if n % len(present) == i])


class MemoryLog:
    """A member of a group of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker, topic: str, group: str) -> None:
        if topic not in broker.topics:
            raise NotFound("no such topic", where=topic, remedy="create it")
        self.broker, self.topic, self.group = broker, topic, group
        self._next: dict[Partition, int] = {}
        self._epochs: dict[Partition, int] = {}
        self._epoch = 0
        self._began: dict[Partition, int] = {}
        broker.join(self)

    def assign(self, partitions: Sequence[Partition]) -> None:
        """Called by the broker when the group changes."""
        self._epoch += 1
        self._next = {p: self._next[p] if p in self._next else self._committed(p) for p in partitions}
        self._epochs = {p: self._epochs.get(p, self._epoch) for p in partitions}
        self._began = {p: self._began.get(p, self._next[p]) for p in partitions}

    def _committed(self, partition: Partition) -> int:
        return self.broker.committed.get((self.group, partition), 0)

    def poll(self, *, max_rows: int, timeout_s: float) -> list[Records]:
        """See Log."""
        deadline = time.monotonic() + timeout_s
        while not (taken := self._take(max_rows)) and time.monotonic() < deadline:
            threading.Event().wait(0.001)
        return taken

    def _take(self, max_rows: int) -> list[Records]:
        taken: list[Records] = []
        with self.broker.lock:
            for partition in sorted(self._next):
                start = self._next[partition]
                stored = self.broker.topics[self.topic][partition.number][start : start + max_rows]
                if not stored:
                    continue
                max_rows -= len(stored)
                self._next[partition] = start + len(stored)
                taken.append(
                    Records(
                        partition,
                        self._epochs[partition],
                        range(start, start + len(stored)),
                        [r.key for r in stored],
                        [r.value for r in stored],
                        [r.headers for r in stored],
                        [r.timestamp_ms for r in stored],
                    )
                )
                if max_rows == 0:
                    break
        return taken

    def keep_alive(self) -> None:
        """See Log."""

    def commit(self, outgoing: Sequence[Outgoing], upto: Mapping[Partition, int]) -> Future[None]:
        """See Log."""
        future: Future[None] = Future()
        written = [
            (out.topic, out.partition, Stored(key, value, tuple(headers), time_ms))
            for out in outgoing
            for key, value, headers, time_ms in zip(out.keys, out.values, out.headers, out.timestamps_ms, strict=True)
        ]
        with self.broker.lock:
            if self.broker.fail_next:
                future.set_exception(self.broker.fail_next.pop(0))
            elif any(partition not in self._epochs for partition in upto):
                future.set_exception(Unreachable("the partitions are another member's now", where=self.group, remedy="recover"))
            elif why := next(filter(None, (self.broker.refuses(topic, record) for topic, _, record in written)), ""):
                future.set_exception(RecordRefused(why, where=self.group, remedy="recover, and commit less"))
            else:
                for topic, number, record in written:
                    self.broker.topics[topic][number].append(record)
                self.broker.committed.update({(self.group, partition): offset for partition, offset in upto.items()})
                future.set_result(None)
        return future

    def recover(self) -> None:
        """See Log."""
        with self.broker.lock:
            if self not in self.broker.members[self.group, self.topic]:
                self.broker.join(self)
            self._epoch += 1
            self._next = {p: self._committed(p) for p in self._next}
            self._epochs = dict.fromkeys(self._next, self._epoch)

    def trouble(self) -> str:
        """See Log."""
        with self.broker.lock:
            return "" if self in self.broker.members[self.group, self.topic] else "not in the group"

    def epoch(self, partition: Partition) -> int | None:
        """See Log."""
        return self._epochs.get(partition)

    def position(self, partition: Partition) -> int | None:
        """See Log."""
        return self._next.get(partition)

    def partitions_of(self, topic: str) -> int:
        """See Log."""
        try:
            return len(self.broker.topics[topic])
        except KeyError:
            raise NotFound("no such topic", where=topic, remedy="create it") from None

    def limits_of(self, topic: str) -> TopicLimits:
        """See Log."""
        return self.broker.limits.get(topic, TopicLimits(NO_LIMIT_BYTES))

    def owned(self) -> dict[Partition, OwnedPartition]:
        """See Log."""
        with self.broker.lock:
            ends = {p: len(self.broker.topics[self.topic][p.number]) for p in self._next}
            return {p: OwnedPartition(ends[p] - self._committed(p), self._began[p], StartReason.COMMITTED) for p in self._next}

    def close(self) -> None:
        """See Log."""
        self.broker.leave(self)
