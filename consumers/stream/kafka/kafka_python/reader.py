"""Reading as a member of a group, through kafka-python.

No deserialisers are set: one that raises makes the client spin for ever. A consumer is not thread-safe: the thread that
polls has it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    CorruptRecordError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from consumers.stream.kafka.broker_errors import asker_of, unreachable
from consumers.stream.kafka.kafka_python.client import client_config
from consumers.stream.kafka.kafka_python.errors import KafkaErrors
from consumers.stream.kafka.kafka_python.inside import stuck_at
from consumers.stream.kafka.kafka_python.membership import Membership
from consumers.stream.kafka.kafka_python.names import Use, has
from consumers.stream.kafka.kafka_python.offsets import partition_of, to_client
from consumers.stream.kafka.member import Offsets
from consumers.stream.kafka.reading import Reading
from consumers.stream.log.port import Member, Partition, Records, subset
from consumers.stream.spec import StreamSpec

CALL_TIMEOUT_S = 20.0
EARLY_MAX_ROWS = 100
# A poll that waits for nothing may never finish joining the group, and all of it waits for us then.
STAY_POLL_S = 0.03
LOOK_HOW_FAR_EVERY_S = 0.1
METADATA_EVERY_MS = 10_000  # so late partitions that were added are found
COMMIT_TIMEOUT_MS = 5000
CLOSE_TIMEOUT_MS = 5000
QUICK_CLOSE_TIMEOUT_MS = 1000


class _Ownership(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python is untyped
    """Called on the client's I/O thread, so it only notes."""

    def __init__(self, consumer: KafkaConsumer, reading: Reading) -> None:
        self._consumer, self._reading = consumer, reading

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """At 0 and paused: where they begin is found meanwhile, and is not the client's to say."""
        for partition in assigned:
            self._consumer.pause(partition)
            self._consumer.seek(partition, 0)
        self._reading.gain(map(partition_of, assigned))

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._reading.lose(map(partition_of, revoked))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._reading.lose(map(partition_of, lost))


class KafkaReader:
    """See GroupReader. Raises Unreachable where the broker does not answer."""

    def __init__(self, spec: StreamSpec, brokers: str, member: Member, reading: Reading, translating: KafkaErrors) -> None:
        self._reading, self._translating = reading, translating
        self.polled_s = 0.0
        self._reached_s = 0.0
        self._by_rows = has(Use.ROWS)
        if has(Use.WIRE):
            from consumers.stream.kafka.kafka_python.wire import read_wide  # it builds on what the client may lack

            read_wide()
        try:
            self._consumer = _consumer_of(spec, brokers, member)
            if self._by_rows:
                from consumers.stream.kafka.kafka_python.rows import read_by_rows  # so does it

                read_by_rows(self._consumer)
            ownership = _Ownership(self._consumer, reading)
            if spec.input.pattern:
                self._consumer.subscribe(pattern=f"^(?:{spec.input.pattern})$", listener=ownership)
            else:
                self._consumer.subscribe(list(spec.input.names), listener=ownership)
        except KafkaError as error:
            raise unreachable(brokers, error, asker_of(spec, member)) from error
        # Before the broker counts this member out, its worker should say that it is cut off.
        self._membership = Membership(self._consumer, spec.session_timeout_s / 2)

    def poll(self, max_rows: int, timeout_s: float) -> list[Records]:
        """See GroupReader."""
        taken = self._poll(max_rows, timeout_s)
        if not taken:
            self._look_how_far()
        return taken

    def stay(self, held_rows: int) -> list[Records]:  # noqa: ARG002  # the pause costs nothing here
        """See GroupReader. A partition that arrives in this very poll is not paused yet: what it brings waits."""
        with self._translating():
            self._consumer.pause(*self._consumer.assignment())
            early = self._poll(EARLY_MAX_ROWS, STAY_POLL_S)
            self._consumer.resume(*(part for part in self._consumer.assignment() if self._reading.is_read(partition_of(part))))
        return early

    def begin(self, due: Mapping[Partition, int]) -> None:
        """See GroupReader."""
        assigned = self._consumer.assignment()
        for partition, offset in due.items():
            part = TopicPartition(*partition)
            if part in assigned:
                self._consumer.seek(part, offset)
                self._consumer.resume(part)

    def pause(self, partitions: Sequence[Partition]) -> None:
        """See GroupReader."""
        assigned = self._consumer.assignment()
        self._consumer.pause(*(part for part in (TopicPartition(*each) for each in partitions) if part in assigned))

    def group(self) -> object:
        """See GroupReader."""
        return self._consumer.group_metadata()

    def commit(self, offsets: Offsets, *, wait: bool) -> None:
        """See GroupReader."""
        with self._translating():
            if wait:
                self._consumer.commit(to_client(offsets), timeout_ms=COMMIT_TIMEOUT_MS)
            else:
                self._consumer.commit_async(to_client(offsets))

    def commit_starts(self, offsets: Offsets) -> Future[None]:
        """See GroupReader."""
        self.commit(offsets, wait=True)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def trouble(self) -> str:
        """See GroupReader."""
        return self._membership.trouble()

    def check_name(self) -> None:
        """See GroupReader."""
        with self._translating():
            self._membership.check_name()

    def close(self, *, quickly: bool = False) -> None:
        """See GroupReader."""
        self._consumer.close(timeout_ms=QUICK_CLOSE_TIMEOUT_MS if quickly else CLOSE_TIMEOUT_MS)

    def _poll(self, max_rows: int, timeout_s: float) -> list[Records]:
        self.polled_s = time.monotonic()
        with self._translating():
            self._membership.look()
            if not self._membership.settled:
                timeout_s = max(timeout_s, STAY_POLL_S)
            try:
                polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_rows)
            except CorruptRecordError as error:
                return self._step_over(error)
            except OffsetOutOfRangeError as error:
                # What was to come next exists no more: where it goes on is not the client's to say.
                self.pause(self._reading.go_back(map(partition_of, error.args[0])))
                return []
            except NoOffsetForPartitionError:  # one that was gained this very moment
                return []
        taken: list[Records] = []
        for part, rows in polled.items():
            partition = partition_of(part)
            if not self._by_rows:
                rows = [(each.offset, each.timestamp, each.key, each.value, each.headers) for each in rows]
            offsets, times_ms, keys, values, headers = zip(*rows, strict=True)
            found = self._reading.take(partition, offsets)
            if found is None:  # revoked while the poll was under way, or not to be read yet
                continue
            epoch, again = found
            records = Records(partition, epoch, offsets, keys, values, headers, times_ms)
            taken.append(subset(records, range(again, len(records))) if again else records)
        return taken

    def _step_over(self, error: CorruptRecordError) -> list[Records]:
        """The record that can't be read, as a row that says so. Left to itself the client would stay at it for ever."""
        part, offset = stuck_at(self._consumer)
        self._consumer.seek(part, offset + 1)
        partition = partition_of(part)
        taken = self._reading.take(partition, [offset])
        if taken is None:
            return []
        now_ms = int(time.time() * 1000)
        why = f"{type(error).__name__}: {error}"
        return [Records(partition, taken[0], [offset], [None], [None], [()], [now_ms], {0: why})]

    def _look_how_far(self) -> None:
        """Where nothing more was found: past transaction markers, too."""
        now_s = time.monotonic()
        if now_s - self._reached_s < LOOK_HOW_FAR_EVERY_S:
            return
        self._reached_s = now_s
        with self._translating():
            for part in self._consumer.assignment():
                if self._reading.is_read(partition_of(part)):
                    reached = self._consumer.position(part, timeout_ms=0)
                    if reached is not None:
                        self._reading.reach(partition_of(part), int(reached))


def _consumer_of(spec: StreamSpec, brokers: str, member: Member) -> KafkaConsumer:
    return KafkaConsumer(
        **client_config(brokers, spec.security),
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
