"""A real broker, real worker processes, real kill -9: every record comes out once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import orjson
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from consumers.stream.kafka_client import ensure_topics
from consumers.stream.spec import Guarantee, Input, Output, StreamSpec, Topic

PARTITIONS = 4
WAIT_S = 90.0


@dataclass
class Pipeline:
    """Topics of their own, workers as processes, and what a read_committed reader sees."""

    brokers: str
    spec: StreamSpec
    workers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, rank: int) -> None:
        command = [sys.executable, "-m", "tests.stream_worker", self.spec.model_dump_json(), self.brokers, str(rank)]
        self.workers[rank] = subprocess.Popen(command)

    def kill(self, rank: int) -> None:
        worker = self.workers.pop(rank)
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()

    def stop(self, rank: int) -> int:
        worker = self.workers.pop(rank)
        worker.terminate()
        return worker.wait(60)

    def publish(self, first: int, count: int) -> None:
        """Records `first..first+count`, every 50th malformed; the key is the number modulo 40."""
        producer = KafkaProducer(bootstrap_servers=self.brokers, linger_ms=5)
        for i in range(first, first + count):
            value = orjson.dumps({"x": [i, 0, 0]}) if i % 50 else b"{broken %d" % i
            producer.send(self.spec.input.topic, value, b"%d" % (i % 40), [("n", b"%d" % i)], (i % 40) % PARTITIONS, 1000 + i)
        producer.close()

    def read(self, topic: str) -> list[tuple[int, int, int]]:
        """(partition, offset, number) of every committed record."""
        consumer = KafkaConsumer(bootstrap_servers=self.brokers, isolation_level="read_committed", auto_offset_reset="earliest")
        try:
            partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            seen: list[tuple[int, int, int]] = []
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                for records in consumer.poll(timeout_ms=200).values():
                    seen += [(r.partition, r.offset, int(dict(r.headers)["n"])) for r in records]
            return sorted(seen)
        finally:
            consumer.close()

    def wait_for(self, outputs: int) -> None:
        until(lambda: len(self.read(self.spec.output.topic)) >= outputs)

    def check(self, total: int) -> None:
        """The set of inputs is outputs plus dead letters; nothing twice; the order of each key is kept."""
        out = self.read(self.spec.output.topic)
        dead = self.read(self.spec.dead_letters.topic)
        assert sorted(number for _, _, number in dead) == [i for i in range(total) if i % 50 == 0]
        counts = Counter(number for _, _, number in out)
        assert {number: n for number, n in counts.items() if n > 1} == {}
        assert sorted(counts) == [i for i in range(total) if i % 50]
        for key in range(40):
            numbers = [number for _, _, number in out if number % 40 == key]
            assert numbers == sorted(numbers)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.05)


@pytest.fixture
def pipeline(broker: str) -> Iterator[Pipeline]:
    tag = uuid.uuid4().hex[:8]
    spec = StreamSpec(
        model="m",
        input=Input(topic=f"in-{tag}", partitions=PARTITIONS),
        output=Output(topic=f"out-{tag}", partitions=PARTITIONS),
        dead_letters=Topic(topic=f"dead-{tag}", partitions=1),
        guarantee=Guarantee.EXACTLY_ONCE,
        group=f"group-{tag}",
        max_batch_rows=50,
        session_timeout_s=6,
        transaction_timeout_s=10,
    )
    ensure_topics(spec, broker)
    made = Pipeline(broker, spec)
    yield made
    for rank in list(made.workers):
        made.kill(rank)


def test_a_worker_that_is_killed_loses_and_doubles_nothing(pipeline: Pipeline) -> None:
    pipeline.publish(0, 4000)
    pipeline.start(0)
    for reached in (300, 1200, 2000):
        pipeline.wait_for(reached)
        pipeline.kill(0)
        pipeline.start(0)
    pipeline.publish(4000, 1000)
    pipeline.wait_for(4900)
    assert pipeline.stop(0) == 0
    pipeline.check(5000)


def test_workers_that_come_and_go_lose_and_double_nothing(pipeline: Pipeline) -> None:
    pipeline.publish(0, 6000)
    pipeline.start(0)
    pipeline.wait_for(500)
    pipeline.start(1)
    pipeline.wait_for(2500)
    pipeline.kill(0)
    pipeline.wait_for(3000)
    assert pipeline.stop(1) == 0
    pipeline.start(2)
    pipeline.wait_for(5880)
    assert pipeline.stop(2) == 0
    pipeline.check(6000)
