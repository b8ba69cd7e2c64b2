"""Kafka's topics, as any reader of committed records has them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer, TopicPartition

READ_S = 120.0


def read_records(brokers: str, topic: str, count: int) -> Iterator[Any]:
    """The first `count` records of the topic; ends the example where they do not come."""
    consumer = KafkaConsumer(bootstrap_servers=brokers, isolation_level="read_committed", auto_offset_reset="earliest")
    ends_s = time.monotonic() + READ_S
    try:
        while not (numbers := consumer.partitions_for_topic(topic)) and time.monotonic() < ends_s:
            consumer.poll(timeout_ms=200)
        consumer.assign([TopicPartition(topic, number) for number in numbers or ()])
        while count > 0:
            if time.monotonic() > ends_s:
                raise SystemExit(f"{count} answers are missing in {topic} after {READ_S:g} s: headrace stream status")
            for records in consumer.poll(timeout_ms=500).values():
                count -= len(records)
                yield from records
    finally:
        consumer.close()
