"""Replays, and a group that is moved, on a real broker with either client."""

from __future__ import annotations

import time
import uuid

import orjson
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from cluster.errors import Conflict
from consumers.stream.kafka.clients import open_log
from consumers.stream.kafka.offsets import offset_ranges, set_group
from consumers.stream.log.port import Member
from consumers.stream.replay.conditions import dead_letters, everything, spec_of_replay
from consumers.stream.replay.run import run_replay
from consumers.stream.spec import Client, StreamSpec
from tests.support.stream_parts import SumScoring
from tests.support.stream_topics import WAIT_S, small_stream
from tests.support.waiting import until

CONNECT = "__connect.errors."


@pytest.fixture(params=[Client.KAFKA_PYTHON, Client.LIBRDKAFKA])
def spec(broker: str, request: pytest.FixtureRequest) -> StreamSpec:
    return small_stream(broker, request.param, partitions=2)


def publish(broker: str, topic: str, rows: list[tuple[int, int, list[tuple[str, bytes]], int]]) -> None:
    """Of each the number, partition, headers and time, in one transaction, so that its mark is the last thing in the topic."""
    producer = KafkaProducer(bootstrap_servers=broker, transactional_id=uuid.uuid4().hex)
    producer.init_transactions()
    producer.begin_transaction()
    for number, partition, headers, when_ms in rows:
        producer.send(topic, orjson.dumps({"x": [number, 0, 0]}), b"k", headers, partition, when_ms)
    producer.commit_transaction()
    producer.close()
    consumer = KafkaConsumer(bootstrap_servers=broker, isolation_level="read_committed")
    parts = {TopicPartition(topic, partition) for _, partition, _, _ in rows}
    # The marks of a transaction follow a moment after its commit.
    until(lambda: sum(consumer.end_offsets(list(parts)).values()) == len(rows) + len(parts), WAIT_S)
    consumer.close()


def answers(broker: str, topic: str) -> list[tuple[float, bytes]]:
    """Sum and prediction id of all answers."""
    consumer = KafkaConsumer(bootstrap_servers=broker, isolation_level="read_committed", auto_offset_reset="earliest")
    try:
        consumer.assign([TopicPartition(topic, number) for number in range(2)])
        found = []
        while polled := consumer.poll(timeout_ms=1000):
            found += [record for records in polled.values() for record in records]
    finally:
        consumer.close()
    told = [(orjson.loads(r.value)["sum"][0], dict(r.headers)) for r in found]
    assert all(headers["headrace.replay"] == b"r1" for _, headers in told)
    return sorted((total, headers["headrace.prediction_id"]) for total, headers in told)


def test_dead_letters_are_scored_again_once(spec: StreamSpec, broker: str) -> None:
    about = {"topic": spec.input.topic, "partition": "1", "offset": "0"}
    rows = [(i, 0, [(f"{CONNECT}{k}", (v if k != "offset" else str(i)).encode()) for k, v in about.items()], 5) for i in range(5)]
    now_ms = int(time.time() * 1000)
    publish(broker, spec.dead_letters.topic, [(i, p, h, now_ms) for i, p, h, _ in rows])
    again = spec_of_replay(spec, "s", "r1", of_dead_letters=True, to_topic=None)
    for expected in (5, 0):  # the second time its group has them all
        scoring = SumScoring()
        done = run_replay("s", again, broker, scoring, offset_ranges(again, broker), dead_letters(()), replay="r1")
        scoring.executor.shutdown()
        assert (done.rows_out, done.rows_dead, done.rows_skipped) == (expected, 0, 0)
    found = answers(broker, spec.output.topic)
    assert found == [(float(i), f"{spec.input.topic}/1/{i}".encode()) for i in range(5)]


def test_letters_of_two_origins_that_lie_among_each_other_are_scored_once(spec: StreamSpec, broker: str) -> None:
    now_ms = int(time.time() * 1000)
    rows = []
    for i in range(9):  # the last is the first origin's, and so not in the last slice
        about = {"topic": spec.input.topic, "partition": str(i % 2), "offset": str(i)}
        rows.append((i, 0, [(f"{CONNECT}{name}", value.encode()) for name, value in about.items()], now_ms))
    publish(broker, spec.dead_letters.topic, rows)
    again = spec_of_replay(spec, "s", "r1", of_dead_letters=True, to_topic=None)
    for expected in (9, 0):
        scoring = SumScoring()
        done = run_replay("s", again, broker, scoring, offset_ranges(again, broker), dead_letters(()), replay="r1")
        scoring.executor.shutdown()
        assert (done.rows_out, done.rows_dead, done.rows_skipped) == (expected, 0, 0)
    assert [total for total, _ in answers(broker, spec.output.topic)] == [float(i) for i in range(9)]


def test_a_stretch_of_time_is_scored_again_into_another_topic(spec: StreamSpec, broker: str) -> None:
    now_ms = int(time.time() * 1000)
    publish(broker, spec.input.topic, [(i, i % 2, [], now_ms + i * 1000) for i in range(10)])
    other = f"{spec.output.topic}-again"
    again = spec_of_replay(spec, "s", "r1", of_dead_letters=False, to_topic=other)
    stretch = offset_ranges(again, broker, from_ms=now_ms + 3000, to_ms=now_ms + 7000)
    scoring = SumScoring()
    done = run_replay("s", again, broker, scoring, stretch, everything, replay="r1")
    scoring.executor.shutdown()
    assert done.rows_out == 4
    assert [total for total, _ in answers(broker, other)] == [3.0, 4.0, 5.0, 6.0]


def test_a_group_is_moved_once_it_has_no_members(spec: StreamSpec, broker: str) -> None:
    publish(broker, spec.input.topic, [(i, 0, [], int(time.time() * 1000)) for i in range(3)])
    group = spec.group_of("s")
    member = open_log(spec, broker, Member(group, f"{group}-0", f"{group}-0"))
    try:
        until(lambda: bool(member.poll(max_rows=10, timeout_s=0.2)), WAIT_S)
        stretch = offset_ranges(spec, broker)
        with pytest.raises(Conflict, match="has members"):
            set_group(group, stretch.ends, broker, spec.security, timeout_s=1)
    finally:
        member.close()
    set_group(group, stretch.ends, broker, spec.security)
    consumer = KafkaConsumer(bootstrap_servers=broker, group_id=group, enable_auto_commit=False)
    try:
        assert consumer.committed(TopicPartition(spec.input.topic, 0)) == 4  # three records and the transaction's mark
    finally:
        consumer.close()
