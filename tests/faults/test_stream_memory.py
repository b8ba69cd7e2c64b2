"""A stream's worker stays within its bytes in flight, whatever the size of its records, and does not grow with their number."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable

import orjson
import psutil
import pytest
from confluent_kafka import Producer
from kafka import KafkaConsumer, TopicPartition

from consumers.stream.spec import Client
from tests.support.stream_workers import PARTITIONS, Pipeline, pipeline_on
from tests.support.waiting import until

MIB = 1024 * 1024
IN_FLIGHT_BYTES = 16 * MIB
# Over what it takes before its first record: what is in flight, the client's own buffers, answers on their way out.
CAP_BYTES = 192 * MIB
GROWTH_BYTES = 48 * MIB
BACKLOG_BYTES = int(os.environ.get("STREAM_SOAK_BACKLOG_BYTES") or 384 * MIB)
EVENTS = int(os.environ.get("STREAM_SOAK_EVENTS") or 1_000_000)
CLIENTS = [Client.KAFKA_PYTHON, Client.LIBRDKAFKA]


def rss(pipeline: Pipeline) -> int:
    return int(psutil.Process(pipeline.workers[0].pid).memory_info().rss)


def publish(pipeline: Pipeline, values: Callable[[], bytes | None]) -> int:
    """Writes what `values` gives until it gives None; how many records that were."""
    producer = Producer({"bootstrap.servers": pipeline.topics.brokers, "linger.ms": 20, "queue.buffering.max.kbytes": 64 * 1024})
    topic, count = pipeline.topics.spec.input.topic, 0
    while (value := values()) is not None:
        while True:
            try:
                producer.produce(topic, value, b"%d" % count, count % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
        count += 1
    assert producer.flush(120) == 0
    return count


def drained(pipeline: Pipeline) -> int:
    """Waits until nothing is left; the most memory that the worker was seen to take."""
    spec, most = pipeline.topics.spec, 0
    consumer = KafkaConsumer(bootstrap_servers=pipeline.topics.brokers, group_id=spec.group, enable_auto_commit=False)
    partitions = [TopicPartition(spec.input.topic, number) for number in range(PARTITIONS)]
    ends = consumer.end_offsets(partitions)

    def done() -> bool:
        nonlocal most
        most = max(most, rss(pipeline))
        return all((consumer.committed(partition) or 0) >= ends[partition] for partition in partitions)

    try:
        until(done, 1800)
    finally:
        consumer.close()
    return most


def written(pipeline: Pipeline, topic: str) -> int:
    """How far the topic reaches: its records, and the marks of transactions."""
    consumer = KafkaConsumer(bootstrap_servers=pipeline.topics.brokers)
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        return int(sum(consumer.end_offsets(partitions).values()))
    finally:
        consumer.close()


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("client", CLIENTS)
def test_memory_is_bounded_by_the_bytes_in_flight(client: Client, broker: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = random.Random(7)
    left = BACKLOG_BYTES

    def value() -> bytes | None:
        """From 100 bytes to 1 MB, as many of each order of magnitude."""
        nonlocal left
        if left <= 0:
            return None
        size = int(10 ** sizes.uniform(2, 5.99))
        left -= size
        return orjson.dumps({"x": [1, 2, 3], "filling": "f" * size})

    with pipeline_on(broker, client, max_batch_rows=2000, max_in_flight_bytes=IN_FLIGHT_BYTES) as pipeline:
        pipeline.start(0)
        pipeline.await_owner(0)
        before = rss(pipeline)
        pipeline.kill(0)
        count = publish(pipeline, value)
        pipeline.start(0)
        pipeline.await_owner(0)
        most = drained(pipeline)
        assert pipeline.stop(0) == 0
        with capsys.disabled():
            sys.stdout.write(f"\n  {client}: {count} records, {(most - before) / MIB:.0f} MiB over {before / MIB:.0f} MiB\n")
        assert written(pipeline, pipeline.topics.spec.output.topic) > count
        assert written(pipeline, pipeline.topics.spec.dead_letters.topic) == 0
        assert most - before < CAP_BYTES


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("client", CLIENTS)
def test_memory_does_not_grow_with_the_events(client: Client, broker: str, capsys: pytest.CaptureFixture[str]) -> None:
    value, tenth = orjson.dumps({"x": [1, 2, 3]}), EVENTS // 10
    taken: list[int] = []
    with pipeline_on(broker, client, max_batch_rows=2000) as pipeline:
        pipeline.start(0)
        pipeline.await_owner(0)
        for _ in range(10):
            left = iter(range(tenth))
            publish(pipeline, lambda left=left: value if next(left, None) is not None else None)  # type: ignore[misc]
            drained(pipeline)
            taken.append(rss(pipeline))
        assert pipeline.stop(0) == 0
        with capsys.disabled():
            sys.stdout.write(f"\n  {client}: MiB after each tenth of {EVENTS}: {', '.join(f'{b / MIB:.0f}' for b in taken)}\n")
    assert max(taken[5:]) - max(taken[:5]) < GROWTH_BYTES
