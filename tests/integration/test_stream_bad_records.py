"""Records that the client can't read, and answers that the topic won't take: each is a dead letter, none stops the stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, KafkaAdminClient
from kafka.consumer.fetcher import ConsumerRecord

from consumers.stream.kafka.clients import open_log
from consumers.stream.log.port import Member
from consumers.stream.loop import Loop
from consumers.stream.spec import Client, StreamSpec
from tests.support.stream_parts import SumScoring
from tests.support.stream_topics import WAIT_S, HostileName, small_stream
from tests.support.waiting import until


@pytest.fixture(params=[Client.KAFKA_PYTHON, Client.LIBRDKAFKA])
def spec(broker: str, request: pytest.FixtureRequest) -> StreamSpec:
    return small_stream(broker, request.param, partitions=1)


@contextmanager
def working(spec: StreamSpec, broker: str) -> Iterator[Loop]:
    group, scoring = spec.group_of("s"), SumScoring()
    loop = Loop("s", spec, scoring, lambda: open_log(spec, broker, Member(group, f"{group}-0", f"{group}-0")))
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop()
        thread.join(60)
        assert not thread.is_alive()
        scoring.executor.shutdown()


@contextmanager
def reading(broker: str, topic: str) -> Iterator[KafkaConsumer]:
    consumer = KafkaConsumer(bootstrap_servers=broker, isolation_level="read_committed", auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 0)])
    try:
        yield consumer
    finally:
        consumer.close()


def read(broker: str, topic: str, count: int) -> list[ConsumerRecord]:
    found: list[ConsumerRecord] = []
    with reading(broker, topic) as consumer:

        def look() -> bool:
            for records in consumer.poll(timeout_ms=200).values():
                found.extend(records)
            return len(found) >= count

        until(look, WAIT_S)
    return found


def put(broker: str, topic: str, number: int, headers: list[tuple[str, bytes]] | None = None) -> None:
    """One record in a batch of its own."""
    producer = KafkaProducer(bootstrap_servers=broker)
    producer.send(topic, orjson.dumps({"x": [number, 0, 0]}), b"k", headers or []).get(30)
    producer.close()


def spoil(broker: str, topic: str, number: int) -> None:
    """Turns a bit of the record on the broker's disk."""
    admin = KafkaAdminClient(bootstrap_servers=broker)
    try:
        (folder,) = {Path(log["log_dir"]) for node in admin.describe_log_dirs() for log in node["log_dirs"]}
    finally:
        admin.close()
    segment = folder / f"{topic}-0" / "00000000000000000000.log"
    at = segment.read_bytes().index(orjson.dumps({"x": [number, 0, 0]}))
    with segment.open("r+b") as file:
        file.seek(at + 5)
        file.write(b"!")


def test_what_can_not_be_read_is_a_dead_letter_and_its_neighbours_are_scored(spec: StreamSpec, broker: str) -> None:
    topic = spec.input.topic
    put(broker, topic, 11)
    put(broker, topic, 22, [(HostileName("name"), b"1")])
    put(broker, topic, 33)
    put(broker, topic, 44)
    put(broker, topic, 55)
    spoil(broker, topic, 44)
    with working(spec, broker) as loop:
        answers = read(broker, spec.output.topic, 3)
        dead = read(broker, spec.dead_letters.topic, 2)
        until(lambda: sum(loop.lag().values()) == 0, WAIT_S)
        assert loop.counters.recoveries == 0
    assert [orjson.loads(record.value)["sum"] for record in answers] == [[11.0], [33.0], [55.0]]
    assert [dict(record.headers)["__connect.errors.offset"] for record in dead] == [b"1", b"3"]
    messages = [dict(record.headers)["__connect.errors.exception.message"] for record in dead]
    if spec.client is Client.KAFKA_PYTHON:
        assert all(b"CorruptRecord" in message for message in messages)
    else:
        assert b"UTF-8" in messages[0]
        assert dead[0].value == orjson.dumps({"x": [22, 0, 0]})  # only its header can't be read
        assert b"CRC" in messages[1]


def test_an_answer_that_its_topic_will_not_take_is_a_dead_letter(spec: StreamSpec, broker: str) -> None:
    large = [("trace", b"x" * (spec.max_record_bytes - 2000))]
    put(broker, spec.input.topic, 1)
    producer = KafkaProducer(bootstrap_servers=broker, max_request_size=2 * spec.max_record_bytes)
    producer.send(spec.input.topic, orjson.dumps({"x": [2, 0, 0]}), b"k", large).get(30)
    producer.close()
    put(broker, spec.input.topic, 3)
    admin = KafkaAdminClient(bootstrap_servers=broker)
    try:
        admin.alter_configs([ConfigResource("topic", spec.output.topic, {"max.message.bytes": "20000"})])
    finally:
        admin.close()
    with working(spec, broker) as loop:
        answers = read(broker, spec.output.topic, 2)
        (dead,) = read(broker, spec.dead_letters.topic, 1)
        assert loop.counters.recoveries == 0
    assert [orjson.loads(record.value)["sum"] for record in answers] == [[1.0], [3.0]]
    assert dead.value == orjson.dumps({"x": [2, 0, 0]})
    assert b"19900 bytes" in dict(dead.headers)["__connect.errors.exception.message"]
