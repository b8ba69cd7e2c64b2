"""Partitions and offsets as kafka-python has them."""

from __future__ import annotations

from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from consumers.stream.kafka.member import Offsets
from consumers.stream.log.port import Partition


def partition_of(part: TopicPartition) -> Partition:
    """Ours of theirs."""
    return Partition(part.topic, part.partition)


def to_client(offsets: Offsets) -> dict[TopicPartition, OffsetAndMetadata]:
    """Theirs of ours."""
    return {TopicPartition(*partition): OffsetAndMetadata(to.offset, to.metadata, -1) for partition, to in offsets.items()}
