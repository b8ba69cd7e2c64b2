"""Where we look inside kafka-python: what it knows and does not say, and what it does only a record at a time.

`names` lists all that is used here. `rows` and `wire` hold classes that stand in for the client's own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.admin import KafkaAdminClient  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    IllegalStateError,
    KafkaTimeoutError,
    UnstableOffsetCommitError,
    for_code,
)

from consumers.stream.kafka.kafka_python.names import (
    BATCH_BUILDER,
    MEMBER_STATE,
    OFFSET_FETCH,
    PRODUCER_BATCH,
    RECORD_FUTURE,
    Use,
    expect,
    found,
    has,
)
from consumers.stream.kafka.kafka_python.record_batch import FORMAT


class Coordination:
    """What one consumer knows of its group. Raises BadInput where this client does not keep it as expected."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        expect(Use.MEMBERSHIP)
        self._consumer = consumer
        self._coordinator: Any = consumer._coordinator
        self._cluster: Any = consumer._cluster
        self._stable = found(MEMBER_STATE).STABLE

    @property
    def stable(self) -> bool:
        """Whether no rebalance is under way, as far as the consumer knows."""
        return self._consumer.group_metadata().state is self._stable

    @property
    def found(self) -> bool:
        """Whether it knows the broker that keeps the group."""
        return self._coordinator.coordinator_id is not None

    @property
    def name(self) -> str:
        """The member's own name in the group."""
        return str(self._coordinator.group_instance_id)

    @property
    def answered_s(self) -> float:
        """When the group's broker last answered, or was last found (monotonic)."""
        heartbeat = self._coordinator.heartbeat
        return float(max(heartbeat.last_receive, heartbeat.last_reset))

    @property
    def unseen_topics(self) -> set[str]:
        """Topics that the consumer's user may not see."""
        return set(self._cluster.unauthorized_topics)

    def look_at_topics_again(self) -> None:
        """Asks for the topics anew, soon."""
        self._cluster.request_update()

    @property
    def join(self) -> Any:
        """The join that is under way or was not looked at yet; None where there is none."""
        return self._coordinator._join_task

    @join.setter
    def join(self, join: Any) -> None:
        self._coordinator._join_task = join

    def need_join(self) -> None:
        """The next poll goes on with the join that is under way, or begins one."""
        self._coordinator.request_rejoin()

    def heartbeat(self) -> None:
        """Sends one, and waits for the answer. Raises KafkaError."""
        self._coordinator._net.run(self._coordinator._send_heartbeat_request)


def stuck_at(consumer: KafkaConsumer) -> tuple[TopicPartition, int]:
    """The record that the poll which raised CorruptRecordError could not read: the error does not say which."""
    expect(Use.STEP_OVER)
    part = consumer._fetcher._next_partition_records
    return part.topic_partition, part.next_fetch_offset


def read_with(consumer: KafkaConsumer, reading: type) -> None:
    """What the consumer fetches of a partition is handed out by this class from now on."""
    consumer._fetcher.PartitionRecords = reading


def next_slice(records: Any) -> tuple[bytes, memoryview, int] | None:
    """The batch that comes next in MemoryRecords: in which bytes, itself, and where it ends; None where there is none."""
    following = records._next_slice
    return None if following is None else (records._buffer, following, records._pos)  # it is always one batch ahead


def step_over_slice(records: Any) -> None:
    """The batch that `next_slice` told is taken."""
    records._cache_next()


@dataclass(frozen=True, slots=True)
class Sending:
    """The parts of one producer that batches go through. `transactions` is None where it has none."""

    transactions: Any
    accumulator: Any
    sender: Any

    @classmethod
    def of(cls, producer: KafkaProducer) -> Sending:
        """Raises BadInput where this client is not made so."""
        expect(Use.SENDING)
        transactions = producer._transaction_manager
        named = transactions is not None and transactions.is_transactional()
        return cls(transactions if named else None, producer._accumulator, producer._sender)

    def add_partition(self, partition: TopicPartition) -> None:
        """The transaction that is under way, if there is one, takes in what goes to this partition."""
        if self.transactions is not None:
            self.transactions.maybe_add_partition_to_transaction(partition)

    def enqueue(self, partition: TopicPartition, records: bytes, times_ms: Sequence[int]) -> Any:
        """A batch of these records, as `RecordAccumulator.append` begins one. Raises KafkaError where the producer is closed."""
        accumulator, count = self.accumulator, len(times_ms)
        builder = found(BATCH_BUILDER)(
            FORMAT, accumulator.config["compression_attrs"], accumulator.config["batch_size"], offset=count
        )
        inside = builder._builder
        inside._buffer += records
        inside._num_records, inside._last_offset = count, count - 1
        inside._first_timestamp, inside._max_timestamp = times_ms[0], max(times_ms)
        batch = found(PRODUCER_BATCH)(partition, builder)
        # Where it is split, since its topic takes less by now, this is what wakes those who wait for it.
        batch._record_futures.append(found(RECORD_FUTURE)(batch.produce_future, 0, None, None, -1, -1, -1))
        accumulator._appends_in_progress.increment()
        try:
            with accumulator._tp_lock(partition):
                if accumulator._closed:
                    raise IllegalStateError("the producer is closed")
                accumulator._batches[partition].append(batch)
                accumulator._incomplete.add(batch)
        finally:
            accumulator._appends_in_progress.decrement()
        self.sender.wakeup()
        return batch


def abandon(producer: KafkaProducer) -> None:
    """Ends a producer without what is still in it.

    Its own close waits for that first, and where the broker is away raises and leaves its thread running.
    """
    if has(Use.ABANDON):
        producer._sender.force_close()
    with contextlib.suppress(KafkaTimeoutError):
        producer.close(timeout=0)


def end_requests_by(admin: KafkaAdminClient, until_s: float) -> None:
    """No request of this client takes longer than until then (monotonic): its own limit counts anew for each."""
    if not has(Use.DEADLINE):
        return
    send, most_ms = admin._manager.send, admin.config["request_timeout_ms"]

    def bounded(request: Any, node_id: Any = None, request_timeout_ms: int | None = None) -> Any:
        left_ms = max(int((until_s - time.monotonic()) * 1000), 1)
        return send(request, node_id=node_id, request_timeout_ms=min(request_timeout_ms or most_ms, left_ms))

    admin._manager.send = bounded


@dataclass(frozen=True, slots=True)
class StableOffset:
    """What a group has committed of a partition: None where it has nothing. `unstable`: an open transaction holds it.

    librdkafka ends its metadata with a zero byte, which is left out.
    """

    offset: int | None
    metadata: str
    unstable: bool


def stable_offsets(
    admin: KafkaAdminClient, group: str, partitions: Sequence[TopicPartition] | None
) -> dict[TopicPartition, StableOffset]:
    """What the group has committed of these partitions, or of all that it has commits of. Blocks; raises KafkaError.

    The client's own call leaves out what is not stable, or raises for all partitions where it is so of one.
    """
    topics: dict[str, list[int]] = {}
    for part in partitions or ():
        topics.setdefault(part.topic, []).append(part.partition)
    expect(Use.STABLE)
    OffsetFetchRequest: Any = found(OFFSET_FETCH)  # noqa: N806  # a class
    of_group = OffsetFetchRequest.OffsetFetchRequestGroup
    inner = [of_group.OffsetFetchRequestTopics(name=name, partition_indexes=numbers) for name, numbers in topics.items()]
    outer = [OffsetFetchRequest.OffsetFetchRequestTopic(name=name, partition_indexes=numbers) for name, numbers in topics.items()]
    request = OffsetFetchRequest(
        group_id=group,
        topics=outer if partitions is not None else None,
        groups=[of_group(group_id=group, topics=inner if partitions is not None else None)],
        require_stable=True,
        min_version=7,  # the first that tells what is not stable
        max_version=8,
    )
    response = admin._manager.run(_ask_coordinator, admin, group, request)
    answer = response.groups[0] if response.API_VERSION >= 8 else response
    if answer.error_code:
        raise for_code(answer.error_code)(f"what {group} has committed can't be read")
    offsets: dict[TopicPartition, StableOffset] = {}
    for topic in answer.topics:
        for each in topic.partitions:
            unstable = each.error_code == UnstableOffsetCommitError.errno
            if each.error_code and not unstable:
                raise for_code(each.error_code)(f"what {group} has committed of {topic.name} can't be read")
            offset = each.committed_offset if each.committed_offset >= 0 and not unstable else None
            offsets[TopicPartition(topic.name, each.partition_index)] = StableOffset(
                offset, (each.metadata or "").rstrip("\0"), unstable
            )
    return offsets


async def _ask_coordinator(admin: KafkaAdminClient, group: str, request: Any) -> Any:
    return await admin._manager.send(request, node_id=await admin._find_coordinator_id(group))
