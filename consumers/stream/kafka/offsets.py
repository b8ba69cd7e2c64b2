"""Where topics begin, end and were at a time, and where a group stands: asked and set from outside of the group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from cluster.errors import Conflict, NotFound
from consumers.stream.kafka.kafka_client import client_config, unreachable
from consumers.stream.log import Partition
from consumers.stream.spec import Security, StreamSpec

CALL_TIMEOUT_S = 20.0
ASK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a topic, by partition: from, and up to but without."""

    starts: dict[Partition, int]
    ends: dict[Partition, int]

    def __len__(self) -> int:
        return sum(end - self.starts[partition] for partition, end in self.ends.items())


def stretch_of(spec: StreamSpec, brokers: str, *, from_ms: int | None = None, to_ms: int | None = None) -> Stretch:
    """What lies in the input's topics between two times (Unix, milliseconds); None is the beginning, or what is committed now.

    Raises Unreachable, and NotFound where there is no such topic.
    """
    with _consumer(brokers, spec.security) as consumer:
        names = [name for name in consumer.topics() if spec.input.reads(name)]
        if not names:
            raise NotFound("no such topic", where=str(spec.input.topic or spec.input.pattern), remedy="check the document")
        parts = [TopicPartition(name, number) for name in names for number in consumer.partitions_for_topic(name)]
        first, last = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
        starts = _at(consumer, parts, from_ms, last) if from_ms is not None else first
        ends = _at(consumer, parts, to_ms, last) if to_ms is not None else last
    where = {part: Partition(part.topic, part.partition) for part in parts}
    begin = {part: int(starts[part]) for part in parts}
    return Stretch(
        {where[part]: begin[part] for part in parts}, {where[part]: max(int(ends[part]), begin[part]) for part in parts}
    )


def set_group(
    group: str, starts: Mapping[Partition, int], brokers: str, security: Security, *, keep: bool = False, timeout_s: float = 60.0
) -> None:
    """Commits for a group that has no members. With `keep`, only where it has committed nothing yet.

    Members that were stopped count until their session is over, so this waits for them. Raises Conflict where there still are
    some after `timeout_s`, and Unreachable.
    """
    until_s = time.monotonic() + timeout_s
    with _consumer(brokers, security, group) as consumer:
        wanted = {TopicPartition(*partition): offset for partition, offset in starts.items()}
        if keep:
            wanted = {part: offset for part, offset in wanted.items() if consumer.committed(part) is None}
        consumer.assign(list(wanted))
        while wanted:
            try:
                consumer.commit({part: OffsetAndMetadata(offset, "", -1) for part, offset in wanted.items()})
            except KafkaError as error:
                if time.monotonic() > until_s:
                    raise Conflict(f"the group has members: {error}", where=group, remedy="pause the stream first") from error
                time.sleep(ASK_EVERY_S)
            else:
                return


def _at(
    consumer: KafkaConsumer, parts: list[TopicPartition], when_ms: int, last: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    told = consumer.offsets_for_times(dict.fromkeys(parts, when_ms))
    return {part: told[part].offset if told.get(part) is not None else last[part] for part in parts}


@contextmanager
def _consumer(brokers: str, security: Security, group: str | None = None) -> Iterator[KafkaConsumer]:
    try:
        consumer = KafkaConsumer(
            **client_config(brokers, security),
            group_id=group,
            enable_auto_commit=False,
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            bootstrap_timeout_ms=int(CALL_TIMEOUT_S * 1000),
        )
    except KafkaError as error:
        raise unreachable(brokers, error) from error
    try:
        yield consumer
    except KafkaError as error:
        raise unreachable(brokers, error) from error
    finally:
        consumer.close()
