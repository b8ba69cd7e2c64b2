"""Numbered records into a stream's topics, and what a read_committed reader counts at the other end."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from consumers.stream.kafka.making_topics import ensure_topics
from consumers.stream.spec import Client, StreamInput, StreamOutput, StreamSpec, Topic
from tests.support.broker_admin import administered
from tests.support.waiting import until

WAIT_S = 120.0
KEYS = 40
BAD_EVERY = 50
LOAD_EVERY_S = 0.25


class HostileName(str):
    """A header's name that is no UTF-8 on the wire, as a client in another language may send it."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff\xfe"


def small_stream(brokers: str, client: Client, partitions: int, **settings: Any) -> StreamSpec:
    """A stream of its own, with its topics made. `settings` of the spec replace the usual ones."""
    tag = uuid.uuid4().hex[:8]
    spec = StreamSpec(
        model="m",
        input=StreamInput(topic=f"in-{tag}", partitions=partitions),
        output=StreamOutput(topic=f"out-{tag}", partitions=partitions),
        dead_letters=Topic(topic=f"dead-{tag}", partitions=1),
        group=f"group-{tag}",
        client=client,
        **{"session_timeout_s": 6, **settings},
    )
    ensure_topics(spec, brokers)
    return spec


def read_values(brokers: str, topic: str) -> list[Any]:
    """The JSON values of all records of the topic that are committed, by partition and offset."""
    return [orjson.loads(record.value) for record in read_records(brokers, topic)]


def read_records(brokers: str, topic: str) -> list[Any]:
    """All records of the topic that are committed, by partition and offset, as the client has them."""
    consumer = KafkaConsumer(bootstrap_servers=brokers, isolation_level="read_committed", auto_offset_reset="earliest")
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        found: dict[TopicPartition, list[Any]] = {partition: [] for partition in partitions}
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for partition, records in consumer.poll(timeout_ms=200).items():
                found[partition] += records
        return [record for partition in partitions for record in found[partition]]
    finally:
        consumer.close()


@dataclass
class Topics:
    """The topics of one stream. `good` and `bad` make the values: every 50th record is bad.

    The key is the number modulo 40. Each partition that was `added` to the input has a key of its own; a fifth of all are theirs.
    """

    brokers: str
    spec: StreamSpec
    good: Callable[[int], bytes]
    bad: Callable[[int], bytes] = lambda i: b"{broken %d" % i
    published: int = 0
    added: int = 0
    keys: list[int] = field(default_factory=list)  # by number
    readers: dict[str, KafkaConsumer] = field(default_factory=dict)
    seen: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)

    def publish(self, count: int) -> None:
        """The next `count` records."""
        producer = KafkaProducer(bootstrap_servers=self.brokers, linger_ms=5)
        declared = self.spec.input.partitions
        now_ms = int(time.time() * 1000)  # of today: the broker's retention deletes what is old, within minutes
        for i in range(self.published, self.published + count):
            value = self.good(i) if i % BAD_EVERY else self.bad(i)
            key = KEYS + i // 5 % self.added if self.added and i % 5 == 0 else i % KEYS
            partition = key % declared if key < KEYS else declared + key - KEYS
            self.keys.append(key)
            producer.send(self.spec.input.topic, value, b"%d" % key, [("n", b"%d" % i)], partition, now_ms)
        producer.close()
        self.published += count

    @contextmanager
    def load(self, records: int) -> Iterator[None]:
        """So many records come four times a second while the block runs."""
        ended = threading.Event()

        def publish() -> None:
            while not ended.wait(LOAD_EVERY_S):
                self.publish(records)

        thread = threading.Thread(target=publish, name="load")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def add_partition(self) -> None:
        """The input has one more from now on."""
        with administered(self.brokers) as admin:
            admin.create_partitions({self.spec.input.topic: self.spec.input.partitions + self.added + 1})
        self.added += 1

    def read(self, topic: str) -> list[tuple[int, int, int]]:
        """(partition, offset, number) of every record committed so far; goes on where the last call ended."""
        consumer = self.readers.get(topic)
        if consumer is None:
            consumer = self.readers[topic] = KafkaConsumer(
                bootstrap_servers=self.brokers, isolation_level="read_committed", auto_offset_reset="earliest"
            )
            consumer.assign([TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))])
        seen = self.seen.setdefault(topic, [])
        while polled := consumer.poll(timeout_ms=200):
            seen += [(r.partition, r.offset, int(dict(r.headers)["n"])) for records in polled.values() for r in records]
        return sorted(seen)

    def outputs(self) -> int:
        """How many answers came out so far."""
        return len(self.read(self.spec.output.topic))

    def wait_for(self, outputs: int) -> None:
        """Returns once so many answers came out."""
        until(lambda: self.outputs() >= outputs, WAIT_S)

    def check(self) -> None:
        """Waits for all, then: the set of inputs is outputs plus dead letters; nothing twice; the order of each key is kept."""
        until(lambda: self.outputs() + len(self.read(self.spec.dead_letters.topic)) >= self.published, WAIT_S)
        out = self.read(self.spec.output.topic)
        dead = self.read(self.spec.dead_letters.topic)
        assert sorted(number for _, _, number in dead) == [i for i in range(self.published) if i % BAD_EVERY == 0]
        counts = Counter(number for _, _, number in out)
        assert {number: n for number, n in counts.items() if n > 1} == {}
        assert sorted(counts) == [i for i in range(self.published) if i % BAD_EVERY]
        in_order: dict[int, list[int]] = {}
        for _, _, number in out:
            in_order.setdefault(self.keys[number], []).append(number)
        assert {key: numbers for key, numbers in in_order.items() if numbers != sorted(numbers)} == {}

    def close(self) -> None:
        """Frees the readers."""
        for reader in self.readers.values():
            reader.close()
