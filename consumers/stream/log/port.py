"""The log that a stream reads from and writes to, behind a port: Kafka, or memory in unit tests.

Everything is by column, because a call or an object a record is what streams spend their time on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from cluster.errors import BadInput
from deployments.observe.traces.span import Span

NO_TIME_MS = -1  # what a record has that was written without a time: every topic takes it

Header = tuple[str, bytes | None]


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class OwnedPartition:
    """What a member knows of a partition that it owns.

    `lag` are records that can be read and are not committed. It began at `began_at` because of `why`; `missing` offsets before
    that were never read, since they exist no more. None until it is known where it begins; where it can't be read at all, `held`
    says why. `unreadable` are records behind a transaction that others have left open since `open_since_s` (Unix, as first seen).
    """

    lag: int = 0
    began_at: int | None = None
    why: str = ""
    missing: int = 0
    held: str = ""
    unreadable: int = 0
    open_since_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Member:
    """Who a consumer is. The same `instance` and `transactional_id` after a restart means no rebalance and a fenced zombie."""

    group: str
    transactional_id: str
    instance: str


class Origins(NamedTuple):
    """Where records lay when they were first read, for those that are read again from elsewhere; as long as the records."""

    partition: Partition
    offsets: Sequence[int]


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one partition in the order of their offsets, by column; all columns have the same length.

    `epoch` numbers the time for which this member owns the partition: results of an older epoch must not be committed.
    `unreadable` says of rows that the log itself could not read why; what it could not read of them is empty. `spans` are of the
    rows that are traced.
    """

    partition: Partition
    epoch: int
    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Sequence[Header]]
    timestamps_ms: Sequence[int]
    unreadable: Mapping[int, str] = field(default_factory=dict)
    origins: Origins | None = None
    spans: Mapping[int, Span] = field(default_factory=dict)

    @property
    def origin(self) -> Origins:
        """Where they were first read: answers and dead letters name it, and keep its order."""
        return self.origins or Origins(self.partition, self.offsets)

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def size_bytes(self) -> int:
        """The bytes of the values."""
        return sum(map(len, filter(None, self.values)))


def subset(records: Records, rows: Sequence[int]) -> Records:
    """Those rows of the records, in this order."""
    return replace(
        records,
        offsets=[records.offsets[row] for row in rows],
        keys=[records.keys[row] for row in rows],
        values=[records.values[row] for row in rows],
        headers=[records.headers[row] for row in rows],
        timestamps_ms=[records.timestamps_ms[row] for row in rows],
        unreadable={at: records.unreadable[row] for at, row in enumerate(rows) if row in records.unreadable},
        origins=Origins(records.origins.partition, [records.origins.offsets[row] for row in rows]) if records.origins else None,
        spans={at: records.spans[row] for at, row in enumerate(rows) if row in records.spans} if records.spans else {},
    )


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Records to write to one partition, in order, by column. Headers are lists: that is what clients take."""

    topic: str
    partition: int
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[list[Header]]
    timestamps_ms: Sequence[int]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size_bytes(self) -> int:
        """The bytes of the values."""
        return sum(map(len, filter(None, self.values)))


class RecordRefused(BadInput):
    """The broker refused a record of a commit, for what it is: nothing was committed; call `recover`, then commit less."""


class RecordTooLarge(RecordRefused):
    """It was refused for its size."""


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """What a topic takes of one record, as far as it is known.

    `largest_bytes`: key, value and headers. `keyed`: none without a key, since the topic is compacted. A record's time may lie
    `before_ms` before and `after_ms` after the broker's; None is any time.
    """

    largest_bytes: int
    keyed: bool = False
    before_ms: int | None = None
    after_ms: int | None = None

    def allows_time(self, time_ms: int, now_ms: int) -> bool:
        """Whether a record of this time would be taken (Unix, milliseconds)."""
        early = self.before_ms is not None and time_ms < now_ms - self.before_ms
        late = self.after_ms is not None and time_ms > now_ms + self.after_ms
        return time_ms == NO_TIME_MS or not (early or late)


class Log(Protocol):
    """One member of a consumer group together with its producer.

    All methods are called from one thread; only `epoch` and `owned` may be called from any. Every failure of the log, a
    lost partition's among them, is Unreachable, and a commit's may be RecordRefused: after one, `recover` is the only way on.
    Conflict means that another member of the same name took over: this one must end.

    Where a partition begins is decided by `consumers.stream.log.starts` and committed before any record of it is handed out.
    """

    def poll(self, *, max_rows: int, timeout_s: float) -> list[Records]:
        """Records not handed out yet, `max_rows` at most; blocks for up to `timeout_s` where there are none."""

    def keep_alive(self) -> None:
        """Stays in the group without taking records. Called instead of `poll`, at least every few seconds."""

    def commit(self, outgoing: Sequence[Outgoing], upto: Mapping[Partition, int]) -> Future[None]:
        """Writes, and commits that the partitions are done below these offsets: all or nothing where exactly once is promised.

        Returns at once. At most one commit is under way. The future fails where nothing, or not certainly all, was committed;
        then call `recover`. It fails with RecordRefused where the broker refused a record of it for what it is (no key, its time,
        its size): then no offset was committed, and the same records are refused again, so commit less of them.
        """

    def recover(self) -> None:
        """Drops what was handed out and not committed, ends any half-done commit, and goes back to the committed offsets.

        Blocks for seconds. Epochs rise. Safe to repeat; raises as `poll` does while the log is away. Records come again once it
        is known what is committed.
        """

    def trouble(self) -> str:
        """Why no records can come now, e.g. that the group has not taken this member in; empty where all is well. Cheap."""

    def epoch(self, partition: Partition) -> int | None:
        """The epoch in which this member owns the partition, or None."""

    def position(self, partition: Partition) -> int | None:
        """Where reading goes on, past transaction markers too; None where the partition is not owned, or not known yet."""

    def partitions_of(self, topic: str) -> int:
        """Over how many partitions of the topic the stream writes: as many as it had when the stream began. Raises NotFound."""

    def limits_of(self, topic: str) -> TopicLimits:
        """What the topic, one of those that the stream writes, takes of a record; asked anew by a `recover` after a refusal."""

    def owned(self) -> Mapping[Partition, OwnedPartition]:
        """What is known of each partition owned, as last seen."""

    def close(self) -> None:
        """Leaves the group and frees everything; what is not committed is left to the next member."""
