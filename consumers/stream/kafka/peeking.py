"""Looking into a topic from outside, without a group: where its partitions begin and end, and some of its records.

All within a time that is told: somebody waits in front of a screen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from cluster.errors import NotFound
from consumers.stream.kafka.broker_errors import Asker, broker_error
from consumers.stream.kafka.kafka_python.client import client_config
from consumers.stream.log.port import Header, Partition
from consumers.stream.security import Security

POLL_S = 0.5
RECORDS_A_POLL = 100  # records may be of megabytes


@dataclass(frozen=True, slots=True)
class PeekedRecord:
    """One record, as it lies there. `time_ms` is Unix time."""

    partition: Partition
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


class TopicPeek:
    """Used by one thread, until `until_s` (monotonic). Its methods raise KafkaError: see `peeking`."""

    def __init__(self, consumer: KafkaConsumer, until_s: float) -> None:
        self._consumer, self._until_s = consumer, until_s

    @property
    def in_time(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self._until_s

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """Where each partition begins, and ends for who reads what is committed. Raises NotFound."""
        numbers = self._consumer.partitions_for_topic(topic)
        if not numbers:
            raise NotFound("there is no such topic yet", where=f"topic {topic}", remedy="it is made when the stream starts")
        parts = [TopicPartition(topic, number) for number in sorted(numbers)]
        begins, ends = self._consumer.beginning_offsets(parts), self._consumer.end_offsets(parts)
        return {part.partition: (begins[part], max(ends[part], begins[part])) for part in parts}

    def read(self, topic: str, ranges: Mapping[int, tuple[int, int]]) -> Iterator[PeekedRecord]:
        """The records of those offsets, `[begin, end)`, by partition, as they come. It ends early where time is over."""
        wanted = {TopicPartition(topic, number): bounds for number, bounds in ranges.items() if bounds[0] < bounds[1]}
        for part, records in self._polled(wanted, RECORDS_A_POLL):
            for record in records:
                if record.offset < wanted[part][1]:
                    where = Partition(part.topic, part.partition)
                    yield PeekedRecord(where, record.offset, record.timestamp, record.key, record.value, record.headers)

    def times_ms(self, places: Mapping[Partition, int]) -> dict[Partition, int]:
        """Of the first record at or behind each offset, where there is one that comes in time."""
        parts = {TopicPartition(*partition): offset for partition, offset in places.items()}
        ends = self._consumer.end_offsets(list(parts)) if parts else {}
        wanted = {part: (offset, ends[part]) for part, offset in parts.items() if offset < ends[part]}
        polled = self._polled(wanted, len(wanted), first_alone=True)
        return {Partition(part.topic, part.partition): records[0].timestamp for part, records in polled}

    def _polled(
        self, wanted: Mapping[TopicPartition, tuple[int, int]], most: int, *, first_alone: bool = False
    ) -> Iterator[tuple[TopicPartition, list[Any]]]:
        """What comes of those offsets, and perhaps from behind them, `most` records at a time; of a partition of which anything
        has come no more where the first is enough."""
        self._consumer.assign(list(wanted))
        for part, (begin, _) in wanted.items():
            self._consumer.seek(part, begin)
        unread = set(wanted)
        while unread and self.in_time:
            polled = self._consumer.poll(timeout_ms=round(1000 * POLL_S), max_records=most)
            yield from polled.items()
            # What lies before the end may be transaction markers alone.
            ended = {p for p in unread if (first_alone and p in polled) or self._consumer.position(p) >= wanted[p][1]}
            unread -= ended
            if ended:
                self._consumer.pause(*ended)


@contextmanager
def peeking(brokers: str, security: Security, timeout_s: float, *, largest_bytes: int = 1 << 20) -> Iterator[TopicPeek]:
    """A look of `timeout_s` at most. Raises Unreachable and what else a broker's refusal means, and BadInput where a secret can't
    be read."""
    limit_ms = round(1000 * timeout_s)
    try:
        consumer = KafkaConsumer(
            **client_config(brokers, security),
            group_id=None,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            isolation_level="read_committed",
            max_partition_fetch_bytes=largest_bytes,
            bootstrap_timeout_ms=limit_ms,
        )
        try:
            yield TopicPeek(consumer, time.monotonic() + timeout_s)
        finally:
            consumer.close()
    except KafkaError as error:
        raise broker_error(brokers, error, Asker(secured=security.identifies)) from error
