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
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnknownError,
)
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from cluster.errors import Conflict, Unreachable
from consumers.stream.kafka.broker_errors import asker_of, unreachable
from consumers.stream.kafka.commit_thread import CommitThread, record_refused, refused
from consumers.stream.kafka.kafka_python.batches import REFUSALS, TOO_LARGE, expect_written, read_by_rows, refusal_of, send
from consumers.stream.kafka.kafka_python.client import ROOM_BYTES, client_config
from consumers.stream.kafka.kafka_python.inside import Membership, abandon, stuck_at
from consumers.stream.kafka.kafka_python.wire import read_wide
from consumers.stream.kafka.reading import Reading
from consumers.stream.kafka.topic_settings import TopicSettings
from consumers.stream.kafka.topic_watch import TopicWatch
from consumers.stream.kafka.written_topics import WrittenTopics
from consumers.stream.log.port import Member, Outgoing, Owned, Partition, Records, Takes, subset
from consumers.stream.log.starts import Notes, Start, metadata_of
from consumers.stream.spec import Guarantee, StreamSpec

CALL_TIMEOUT_S = 20.0
EARLY_MAX_ROWS = 100
# Each transaction that follows another at once is first refused, until the broker has written the marks of the last one.
RETRY_BACKOFF_MS = 5
# A poll that waits for nothing may never finish joining the group, and all of it waits for us then.
KEEP_ALIVE_POLL_S = 0.03
KEEP_ALIVE_EVERY_S = 0.5
LOOK_HOW_FAR_EVERY_S = 0.1
METADATA_EVERY_MS = 10_000  # so late partitions that were added are found


class _Ownership(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python is untyped
    """Called on the client's I/O thread, so it only notes."""

    def __init__(self, consumer: KafkaConsumer, reading: Reading) -> None:
        self._consumer, self._reading = consumer, reading

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """At 0 and paused: where they begin is found meanwhile, and is not the client's to say."""
        for partition in assigned:
            self._consumer.pause(partition)
            self._consumer.seek(partition, 0)
        self._reading.gain(_ours(assigned))

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._reading.lose(_ours(revoked))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._reading.lose(_ours(lost))


def _ours(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return list(map(_where, partitions))


def _where(part: TopicPartition) -> Partition:
    return Partition(part.topic, part.partition)


def _part(partition: Partition) -> TopicPartition:
    return TopicPartition(*partition)


def _offset(offset: int, topic_id: str) -> OffsetAndMetadata:
    return OffsetAndMetadata(offset, metadata_of(topic_id), -1)


def _upto(offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> dict[Partition, int]:
    return {_where(part): to.offset for part, to in offsets.items()}


class KafkaLog:
    """See Log. Made in the thread that polls. Raises Unreachable where the broker does not answer."""

    def __init__(self, spec: StreamSpec, brokers: str, member: Member, notes: Notes) -> None:
        self._spec, self._brokers, self._member = spec, brokers, member
        self._config = client_config(brokers, spec.security)
        self._topic_watch = TopicWatch(spec, brokers, member, notes)
        self._reading = Reading(self._topic_watch)
        self._reached_s = 0.0
        self._early: list[Records] = []
        self._polled_s = 0.0
        self._offsets_to_commit: dict[TopicPartition, OffsetAndMetadata] = {}
        self._producer: KafkaProducer | None = None
        self._settings = TopicSettings(spec, brokers)
        self._written = WrittenTopics.find(spec, brokers, member.group, notes)
        read_wide()
        try:
            self._consumer = KafkaConsumer(
                **self._config,
                group_id=member.group,
                group_instance_id=member.instance,
                enable_auto_commit=False,
                isolation_level="read_committed",
                auto_offset_reset="none",  # see consumers.stream.log.starts
                metadata_max_age_ms=METADATA_EVERY_MS,
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
            ownership = _Ownership(self._consumer, self._reading)
            if spec.input.pattern:
                self._consumer.subscribe(pattern=f"^(?:{spec.input.pattern})$", listener=ownership)
            else:
                self._consumer.subscribe(list(spec.input.names), listener=ownership)
        except KafkaError as error:
            raise unreachable(brokers, error, asker_of(spec, member)) from error
        # Before the broker counts this member out, its worker should say that it is cut off.
        self._membership = Membership(self._consumer, spec.session_timeout_s / 2)
        try:
            self._producer = self._new_producer()
        except BaseException:
            self._consumer.close(timeout_ms=1000)
            raise
        self._thread = CommitThread()
        self._topic_watch.begin()

    def poll(self, *, max_rows: int, timeout_s: float) -> list[Records]:
        """See Log."""
        self._flush_offsets()
        if self._early:
            early, self._early = self._early, []
            return [records for records in early if records.epoch == self.epoch(records.partition)]
        taken = self._poll(max_rows, timeout_s)
        if not taken:
            self._look_how_far()
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
            self._consumer.resume(*(part for part in self._consumer.assignment() if self._reading.is_read(_where(part))))

    def _poll(self, max_rows: int, timeout_s: float) -> list[Records]:
        self._polled_s = time.monotonic()
        self._begin_due()
        with self._reaching():
            self._membership.look()
            if not self._membership.settled:
                timeout_s = max(timeout_s, KEEP_ALIVE_POLL_S)
            try:
                polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_rows)
            except CorruptRecordError as error:
                return self._step_over(error)
            except OffsetOutOfRangeError as error:
                # What was to come next exists no more: where it goes on is not the client's to say.
                self._go_back(map(_where, error.args[0]))
                return []
            except NoOffsetForPartitionError:  # one that was gained this very moment
                return []
        taken: list[Records] = []
        for partition, rows in polled.items():
            where = _where(partition)
            offsets, times_ms, keys, values, headers = zip(*rows, strict=True)
            found = self._reading.take(where, offsets)
            if found is None:  # revoked while the poll was under way, or not to be read yet
                continue
            epoch, again = found
            records = Records(where, epoch, offsets, keys, values, headers, times_ms)
            taken.append(subset(records, range(again, len(records))) if again else records)
        return taken

    def _begin_due(self) -> None:
        """Begins to read those partitions of which it is known by now where."""
        if moved := self._reading.moved():
            self._pause(moved)
        due = self._reading.due(self._commit_starts)
        assigned = self._consumer.assignment() if due else ()
        for partition, offset in due.items():
            part = TopicPartition(*partition)
            if part in assigned:
                self._consumer.seek(part, offset)
                self._consumer.resume(part)

    def _go_back(self, partitions: Iterable[Partition] | None = None) -> None:
        self._pause(self._reading.go_back(partitions))

    def _pause(self, partitions: Iterable[Partition]) -> None:
        assigned = self._consumer.assignment()
        self._consumer.pause(*(part for part in map(_part, partitions) if part in assigned))

    def _commit_starts(self, starts: Mapping[Partition, Start]) -> Future[None]:
        group = self._consumer.group_metadata()
        offsets = {_part(partition): _offset(start.offset, start.topic_id) for partition, start in starts.items()}
        if self._spec.guarantee is Guarantee.EXACTLY_ONCE:
            # As a transaction, so that it can't come late: what is sent after it would be undone by a plain commit.
            return self._thread.submit_start(partial(self._transaction, (), offsets, group))
        self._commit_offsets(offsets)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _step_over(self, error: CorruptRecordError) -> list[Records]:
        """The record that can't be read, as a row that says so. Left to itself the client would stay at it for ever."""
        partition, offset = stuck_at(self._consumer)
        self._consumer.seek(partition, offset + 1)
        where = _where(partition)
        taken = self._reading.take(where, [offset])
        if taken is None:
            return []
        now_ms = int(time.time() * 1000)
        return [Records(where, taken[0], [offset], [None], [None], [()], [now_ms], {0: f"{type(error).__name__}: {error}"})]

    def commit(self, outgoing: Sequence[Outgoing], upto: Mapping[Partition, int]) -> Future[None]:
        """See Log."""
        self._flush_offsets()  # should this one fail, the last one's records are done all the same
        # The generation first: one that is newer than our look at the partitions would let us commit what is ours no more.
        group = self._consumer.group_metadata()
        if any(self.epoch(partition) is None for partition in upto):
            # The broker checks who commits, not for which partitions.
            return refused(Unreachable("the partitions are another member's now", where=self._member.group, remedy="recover"))
        offsets = {_part(p): _offset(offset, self._reading.topic_id(p)) for p, offset in upto.items()}
        if self._spec.guarantee is Guarantee.EXACTLY_ONCE:
            return self._thread.submit(partial(self._transaction, outgoing, offsets, group))
        return self._thread.submit(partial(self._write, outgoing, offsets))

    def recover(self) -> None:
        """See Log."""
        self._drop_producer()
        with self._reaching():
            self._membership.check_name()  # a new producer would fence the member that took over
        self._settings.renew()
        self._producer = self._new_producer()
        with contextlib.suppress(Unreachable):  # at-least-once offsets: their records come again
            self._flush_offsets(wait=True)
        self._early.clear()
        self._go_back()

    def trouble(self) -> str:
        """See Log."""
        return self._membership.trouble()

    def epoch(self, partition: Partition) -> int | None:
        """See Log."""
        return self._reading.epoch(partition)

    def position(self, partition: Partition) -> int | None:
        """See Log."""
        return self._reading.position(partition)

    def partitions_of(self, topic: str) -> int:
        """See Log."""
        return self._written.partitions_of(topic)

    def takes(self, topic: str) -> Takes:
        """See Log."""
        return self._settings.of(topic)

    def owned(self) -> dict[Partition, Owned]:
        """See Log."""
        return self._reading.owned()

    def close(self) -> None:
        """See Log."""
        self._topic_watch.close()
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
            try:
                producer.send_offsets_to_transaction(offsets, group)
                self._flush(producer)
            except KafkaError as error:
                raise refusal_of(sent) or error from error
            expect_written(sent)  # a commit of what is refused may never end
            producer.commit_transaction()
        self._reading.commit(_upto(offsets))

    def _write(self, outgoing: Sequence[Outgoing], offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        producer = self._producer
        assert producer is not None  # noqa: S101  # a commit follows a recover that succeeded
        with self._reaching():
            sent = send(producer, outgoing)
            self._flush(producer)
            expect_written(sent)
        self._offsets_to_commit.update(offsets)  # by the polling thread: the consumer belongs to it

    def _flush(self, producer: KafkaProducer) -> None:
        with contextlib.suppress(UnknownError):  # of a batch that was split: `expect_written` tells
            producer.flush(timeout=self._spec.transaction_timeout_s)

    # --- inside

    def _flush_offsets(self, *, wait: bool = False) -> None:
        if not self._offsets_to_commit or self._thread.busy:
            return
        offsets = {part: to for part, to in self._offsets_to_commit.items() if self.epoch(_where(part)) is not None}
        self._offsets_to_commit = {}
        if not offsets:
            return
        if wait:
            self._commit_offsets(offsets)
            return
        with self._reaching():
            self._consumer.commit_async(offsets)
        self._reading.commit(_upto(offsets))

    def _commit_offsets(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        with self._reaching():
            self._consumer.commit(offsets, timeout_ms=5000)
        self._reading.commit(_upto(offsets))

    def _look_how_far(self) -> None:
        """Where nothing more was found: past the marks of transactions, too."""
        now_s = time.monotonic()
        if now_s - self._reached_s < LOOK_HOW_FAR_EVERY_S:
            return
        self._reached_s = now_s
        with self._reaching():
            for part in self._consumer.assignment():
                if self._reading.is_read(_where(part)):
                    reached = self._consumer.position(part, timeout_ms=0)
                    if reached is not None:
                        self._reading.reach(_where(part), int(reached))

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
                batch_size=min(256 * 1024, self._settings.smallest),
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
            if isinstance(error, REFUSALS):
                self._settings.refuse()
                raise record_refused(str(error), self._brokers, too_large=isinstance(error, TOO_LARGE)) from error
            raise unreachable(self._brokers, error, asker_of(self._spec, self._member)) from error
