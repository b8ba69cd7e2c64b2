"""A payload log's topic, read from its beginning to where it ended when the reading began."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from cluster.errors import NotFound, Unreachable
from cluster.signature import Signature
from cluster.watch.payloads import PayloadTopic
from consumers.payload_replay.recorded import RecordedRequest
from consumers.payload_replay.recorded_events import EventReader
from consumers.stream.kafka.kafka_python.client import brokers_of_environment, client_config
from consumers.stream.security import Security

SILENT_S = 30.0  # so long a broker may tell nothing
AHEAD = 1000  # requests of a partition that wait for others of an earlier time


def recorded_topic(topic: PayloadTopic, model: str, signature: Signature) -> Iterator[RecordedRequest]:
    """The topic's requests to the model, in the order of their time. Raises NotFound, Unreachable, or BadInput for a record
    that is none of a payload log. Blocks."""
    brokers = topic.brokers or brokers_of_environment()
    where = f"topic {topic.topic}"
    try:
        consumer = KafkaConsumer(
            **client_config(brokers, Security.model_validate(topic.security)),
            group_id=None,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            bootstrap_timeout_ms=round(1000 * SILENT_S),
        )
        try:
            yield from _Reading(consumer, topic.topic, model, signature).requests()
        finally:
            consumer.close()
    except KafkaError as error:
        remedy = "see that the broker is there, and lets this user read the topic"
        raise Unreachable(f"the broker at {brokers} gave nothing ({type(error).__name__})", where=where, remedy=remedy) from None


class _Reading:
    """Several partitions as one, by time."""

    def __init__(self, consumer: KafkaConsumer, topic: str, model: str, signature: Signature) -> None:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise NotFound("there is no such topic", where=f"topic {topic}", remedy="see payloads.kafka in the Model document")
        parts = [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(parts)
        begins, self._ends = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
        self._consumer, self._topic = consumer, topic
        self._open = {part for part in parts if begins[part] < self._ends[part]}
        for part in parts:
            consumer.seek(part, begins[part])
        self._waiting: dict[TopicPartition, deque[RecordedRequest]] = {part: deque() for part in parts}
        self._readers = {part: EventReader(model, signature) for part in parts}

    def requests(self) -> Iterator[RecordedRequest]:
        while True:
            heard_s = time.monotonic()
            while any(not self._waiting[part] for part in self._open):
                if self._read():
                    heard_s = time.monotonic()
                elif time.monotonic() - heard_s > SILENT_S:
                    remedy = "see that all its partitions have a leader, and replay again"
                    raise Unreachable("the broker does not tell its end", where=f"topic {self._topic}", remedy=remedy)
            heads = [part for part, waiting in self._waiting.items() if waiting]
            if not heads:
                return
            yield self._waiting[min(heads, key=lambda part: self._waiting[part][0].at_s)].popleft()

    def _read(self) -> bool:
        """Whether anything came, or a partition was seen to be at its end."""
        for part, waiting in self._waiting.items():
            wanted = part in self._open and len(waiting) < AHEAD
            (self._consumer.resume if wanted else self._consumer.pause)(part)
        polled = self._consumer.poll(timeout_ms=500)
        for part, records in polled.items():
            for record in records:
                if record.offset < self._ends[part]:
                    where = f"{self._topic}/{part.partition}/{record.offset}"
                    request = self._readers[part].take(record.headers, record.value, where)
                    if request is not None:
                        self._waiting[part].append(request)
        ended = {part for part in self._open if self._consumer.position(part) >= self._ends[part]}
        self._open -= ended
        return bool(polled or ended)
