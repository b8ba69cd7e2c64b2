"""Partitions and offsets as confluent-kafka has them."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import TopicPartition

from consumers.stream.kafka.member import Offsets
from consumers.stream.log.port import Partition


def partition_of(part: TopicPartition) -> Partition:
    """Ours of theirs."""
    return Partition(part.topic, part.partition)


def to_client(offsets: Offsets) -> list[TopicPartition]:
    """Theirs of ours."""
    return [TopicPartition(*partition, to.offset, metadata=to.metadata) for partition, to in offsets.items()]


def upto_of(parts: Sequence[TopicPartition]) -> dict[Partition, int]:
    """How far each partition is committed."""
    return {partition_of(part): part.offset for part in parts}
