"""The log on Apache Kafka, through kafka-python.

No deserialisers are set: one that raises makes the client spin for ever. A consumer is not thread-safe, a producer is: so the
caller's thread polls, and one thread of our own writes and commits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    CorruptRecordError,
    FencedInstanceIdError,
    KafkaError,
    MessageSizeTooLargeError,
    UnknownError,
)
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from cluster.errors import Conflict, NotFound, Unreachable
from consumers.stream.epochs import Epochs
from consumers.stream.kafka.broker_errors import asker_of, unreachable
from consumers.stream.kafka.commit_thread import CommitThread, refused
from consumers.stream.kafka.kafka_batches import expect_written, read_by_rows, send
from consumers.stream.kafka.kafka_client import ROOM_BYTES, RecordLimits, client_config
from consumers.stream.kafka.kafka_inside import Membership, abandon, stuck_at
from consumers.stream.kafka.kafka_wire import read_wide
from consumers.stream.log import Member, Outgoing, Partition, Records
from consumers.stream.spec import Begin, Guarantee, StreamSpec

CALL_TIMEOUT_S = 20.0
EARLY_MAX_ROWS = 100
# Each transaction that follows another at once is first refused, until the broker has written the marks of the last one.
RETRY_BACKOFF_MS = 5
# A poll that waits for nothing may never finish joining the group, and all of it waits for us then.
KEEP_ALIVE_POLL_S = 0.03
KEEP_ALIVE_EVERY_S = 0.5


class _Ownership(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python is untyped
    """Called on the client's I/O thread, so it only notes."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._epochs.gain(_ours(assigned))

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._epochs.lose(_ours(revoked))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._epochs.lose(_ours(lost))


def _ours(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [Partition(each.topic, each.partition) for each in partitions]


class KafkaLog:
    """See Log. Made in the thread that polls. Raises Unreachable where the broker does not answer."""

    def __init__(self, spec: StreamSpec, brokers: str, member: Member) -> None:
        self._spec, self._brokers, self._member = spec, brokers, member
        self._config = client_config(brokers, spec.security)
        self._epochs = Epochs()
        ownership = _Ownership(self._epochs)
        self._first: dict[TopicPartition, int] = {}  # where each partition began, for those that have committed nothing yet
        self._taken: dict[TopicPartition, int] = {}
        self._done: dict[TopicPartition, int] = {}
        self._lag: dict[Partition, int] = {}
        self._early: list[Records] = []
        self._polled_s = 0.0
        self._offsets_to_commit: dict[TopicPartition, OffsetAndMetadata] = {}
        self._producer: KafkaProducer | None = None
        self._limits = RecordLimits(spec, brokers)
        read_wide()
        try:
            self._consumer = KafkaConsumer(
                **self._config,
                group_id=member.group,
                group_instance_id=member.instance,
                enable_auto_commit=False,
                isolation_level="read_committed",
                auto_offset_reset="earliest" if spec.input.begin is Begin.EARLIEST else "latest",
                partition_assignment_strategy=[CooperativeStickyAssignor],
                session_timeout_ms=int(spec.session_timeout_s * 1000),
                heartbeat_interval_ms=int(spec.session_timeout_s * 1000 / 5),
                max_poll_records=spec.max_batch_rows,
                fetch_max_bytes=max(spec.max_in_flight_bytes // 4, 1024 * 1024),
                max_partition_fetch_bytes=max(min(spec.max_in_flight_bytes // 16, 4 * 1024 * 1024), 64 * 1024),
                allow_auto_create_topics=False,
                bootstrap_timeout_ms=int(CALL_TIMEOUT_S * 1000),
                metrics_enabled=False,
            )
            read_by_rows(self._consumer)
            if spec.input.pattern:
                self._consumer.subscribe(pattern=f"^(?:{spec.input.pattern})$", listener=ownership)
            else:
                self._consumer.subscribe(list(spec.input.names), listener=ownership)
        except KafkaError as error:
            raise unreachable(brokers, error) from error
        # Before the broker counts this member out, its worker should say that it is cut off.
        self._membership = Membership(self._consumer, spec.session_timeout_s / 2)
        try:
            self._producer = self._new_producer()
        except BaseException:
            self._consumer.close(timeout_ms=1000)
            raise
        self._thread = CommitThread()

    def poll(self, *, max_rows: int, timeout_s: float) -> list[Records]:
        """See Log."""
        self._flush_offsets()
        if self._early:
            early, self._early = self._early, []
            return [records for records in early if records.epoch == self.epoch(records.partition)]
        taken = self._poll(max_rows, timeout_s)
        self._look_at_lag()
        return taken

    def keep_alive(self) -> None:
        """See Log."""
        self._flush_offsets()
        if time.monotonic() - self._polled_s < KEEP_ALIVE_EVERY_S:
            return
        with self._reaching():
            self._consumer.pause(*self._consumer.assignment())
            # A partition that arrives in this very poll is not paused yet: what it brings waits for the next poll.
            self._early += self._poll(EARLY_MAX_ROWS, KEEP_ALIVE_POLL_S)
            self._consumer.resume(*(self._consumer.paused() & self._consumer.assignment()))

    def _poll(self, max_rows: int, timeout_s: float) -> list[Records]:
        self._polled_s = time.monotonic()
        with self._reaching():
            self._membership.look()
            if not self._membership.settled:
                timeout_s = max(timeout_s, KEEP_ALIVE_POLL_S)
            try:
                polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_rows)
            except CorruptRecordError as error:
                return self._step_over(error)
        epochs = self._epochs.now()
        taken: list[Records] = []
        for partition, rows in polled.items():
            where = Partition(partition.topic, partition.partition)
            epoch = epochs.get(where)
            if epoch is None:  # revoked while the poll was under way
                continue
            offsets, times_ms, keys, values, headers = zip(*rows, strict=True)
            self._first.setdefault(partition, offsets[0])
            self._taken[partition] = offsets[-1] + 1
            taken.append(Records(where, epoch, offsets, keys, values, headers, times_ms))
        return taken

    def _step_over(self, error: CorruptRecordError) -> list[Records]:
        """The record that can't be read, as a row that says so. Left to itself the client would stay at it for ever."""
        partition, offset = stuck_at(self._consumer)
        self._consumer.seek(partition, offset + 1)
        where = Partition(partition.topic, partition.partition)
        epoch = self._epochs.of(where)
        if epoch is None:
            return []
        self._first.setdefault(partition, offset)
        self._taken[partition] = offset + 1
        now_ms = int(time.time() * 1000)
        return [Records(where, epoch, [offset], [None], [None], [()], [now_ms], {0: f"{type(error).__name__}: {error}"})]

    def commit(self, outgoing: Sequence[Outgoing], upto: Mapping[Partition, int]) -> Future[None]:
        """See Log."""
        self._thread.expect_free()
        if any(self.epoch(partition) is None for partition in upto):
            # The broker checks who commits, not for which partitions.
            return refused(Unreachable("the partitions are another member's now", where=self._member.group, remedy="recover"))
        offsets = {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in upto.items()}
        if self._spec.guarantee is Guarantee.EXACTLY_ONCE:
            return self._thread.submit(partial(self._transaction, outgoing, offsets, self._consumer.group_metadata()))
        return self._thread.submit(partial(self._write, outgoing, offsets))

    def recover(self) -> None:
        """See Log."""
        self._drop_producer()
        with self._reaching():
            self._membership.check_name()  # a new producer would fence the member that took over
        self._limits.renew()
        self._producer = self._new_producer()
        self._epochs.renew()
        self._offsets_to_commit.clear()
        self._taken.clear()
        self._early.clear()
        with self._reaching():
            for partition in self._consumer.assignment():
                committed = self._consumer.committed(partition, timeout_ms=int(CALL_TIMEOUT_S * 1000))
                start = self._first.get(partition) if committed is None else committed
                if start is not None and partition in self._consumer.assignment():
                    self._consumer.seek(partition, start)

    def trouble(self) -> str:
        """See Log."""
        return self._membership.trouble()

    def epoch(self, partition: Partition) -> int | None:
        """See Log."""
        return self._epochs.of(partition)

    def position(self, partition: Partition) -> int | None:
        """See Log."""
        if self.epoch(partition) is None:
            return None
        with self._reaching():
            found = self._consumer.position(TopicPartition(*partition), timeout_ms=0)
        return None if found is None else int(found)

    def partitions_of(self, topic: str) -> int:
        """See Log."""
        with self._reaching():
            found = self._consumer.partitions_for_topic(topic)
        if not found:
            raise NotFound("no such topic", where=topic, remedy="create it, or check the stream's document")
        return len(found)

    def largest_bytes(self, topic: str) -> int:
        """See Log."""
        return self._limits.of(topic)

    def lag(self) -> dict[Partition, int]:
        """See Log."""
        return dict(self._lag)

    def close(self) -> None:
        """See Log."""
        self._drop_producer()
        self._thread.end()
        with contextlib.suppress(Unreachable):  # at-least-once offsets: the next member reads the records again
            self._flush_offsets(wait=True)
        self._consumer.close(timeout_ms=5000)

    # --- the committing thread

    def _transaction(self, outgoing: Sequence[Outgoing], offsets: dict[TopicPartition, OffsetAndMetadata], group: object) -> None:
        producer = self._producer
        assert producer is not None  # noqa: S101  # a commit follows a recover that succeeded
        with self._reaching(committing=True):
            producer.begin_transaction()
            sent = send(producer, outgoing)
            producer.send_offsets_to_transaction(offsets, group)
            producer.commit_transaction()
            expect_written(sent)
        self._done.update({partition: to.offset for partition, to in offsets.items()})

    def _write(self, outgoing: Sequence[Outgoing], offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        producer = self._producer
        assert producer is not None  # noqa: S101  # a commit follows a recover that succeeded
        with self._reaching():
            sent = send(producer, outgoing)
            with contextlib.suppress(UnknownError):  # of a batch that was split: told here
                producer.flush(timeout=self._spec.transaction_timeout_s)
            expect_written(sent)
        self._offsets_to_commit.update(offsets)  # by the polling thread: the consumer belongs to it

    # --- inside

    def _flush_offsets(self, *, wait: bool = False) -> None:
        if not self._offsets_to_commit or self._thread.busy:
            return
        owned = self._epochs.now()
        offsets = {p: to for p, to in self._offsets_to_commit.items() if Partition(p.topic, p.partition) in owned}
        self._offsets_to_commit = {}
        if not offsets:
            return
        with self._reaching():
            if wait:
                self._consumer.commit(offsets, timeout_ms=5000)
            else:
                self._consumer.commit_async(offsets)
        self._done.update({partition: to.offset for partition, to in offsets.items()})

    def _look_at_lag(self) -> None:
        lag: dict[Partition, int] = {}
        for partition in self._consumer.assignment():
            end = self._consumer.highwater(partition)
            done = self._done.get(partition, self._first.get(partition))
            if end is None or done is None or self._taken.get(partition, done) <= done:
                # Nothing in flight: what counts is the position, which also steps over the marks of transactions.
                position = self._consumer.position(partition, timeout_ms=0)
                done = end if position is None else position
            lag[Partition(partition.topic, partition.partition)] = max((end or 0) - (done or 0), 0)
        self._lag = lag

    def _new_producer(self) -> KafkaProducer:
        exactly_once = self._spec.guarantee is Guarantee.EXACTLY_ONCE
        transactions = (
            {
                "transactional_id": self._member.transactional_id,
                "transaction_timeout_ms": int(self._spec.transaction_timeout_s * 1000),
            }
            if exactly_once
            else {}
        )
        with self._reaching():
            producer = KafkaProducer(
                **self._config,
                **transactions,
                linger_ms=2,
                retry_backoff_ms=RETRY_BACKOFF_MS,
                # A batch must fit too, not only a record.
                batch_size=min(256 * 1024, self._limits.smallest),
                max_request_size=self._spec.max_record_bytes + 2 * ROOM_BYTES,
                max_block_ms=int(CALL_TIMEOUT_S * 1000),
                bootstrap_timeout_ms=int(CALL_TIMEOUT_S * 1000),
                metrics_enabled=False,
            )
            if exactly_once:
                try:
                    producer.init_transactions()
                except BaseException:
                    abandon(producer)
                    raise
        return producer

    def _drop_producer(self) -> None:
        """Throws the producer away; a commit that hangs in it is left behind with its thread."""
        producer, self._producer = self._producer, None
        if producer is not None:
            abandon(producer)
        self._thread.leave_behind()

    @contextlib.contextmanager
    def _reaching(self, *, committing: bool = False) -> Iterator[None]:
        try:
            yield
        except FencedInstanceIdError as error:
            if committing:  # perhaps it was this member itself that joined anew meanwhile: `recover` asks
                raise unreachable(self._brokers, error, asker_of(self._spec, self._member)) from error
            raise Conflict("another member of this name took over", where=self._member.instance, remedy="end this one") from error
        except KafkaError as error:
            if isinstance(error, MessageSizeTooLargeError):
                self._limits.refuse()
            raise unreachable(self._brokers, error, asker_of(self._spec, self._member)) from error
