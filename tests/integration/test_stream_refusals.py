"""Records that a real broker refuses to write: each is a dead letter that it takes, and none stops the stream."""

from __future__ import annotations

import time
from collections.abc import Mapping

import orjson
import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, KafkaAdminClient

from consumers.stream.kafka import topic_settings
from consumers.stream.log.port import TopicLimits
from consumers.stream.phases import WorkerPhase
from consumers.stream.spec import Client, Guarantee, StreamSpec
from tests.integration.test_stream_bad_records import read, working
from tests.support.stream_topics import WAIT_S, small_stream
from tests.support.waiting import until

HOUR_MS = 3_600_000
COMPACT = {"cleanup.policy": "compact"}
ROWS = 300
Row = tuple[int, bytes | None, int]  # number, key, time


@pytest.fixture(
    params=[(client, promise) for client in (Client.KAFKA_PYTHON, Client.LIBRDKAFKA) for promise in Guarantee], ids=str
)
def spec(broker: str, request: pytest.FixtureRequest) -> StreamSpec:
    client, guarantee = request.param
    return small_stream(broker, client, partitions=1, guarantee=guarantee)


def untold(_: Mapping[str, str], ours_bytes: int) -> TopicLimits:
    """What is known of a topic where there is no right to ask."""
    return TopicLimits(ours_bytes)


def alter(broker: str, topic: str, settings: dict[str, str]) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker)
    try:
        admin.alter_configs([ConfigResource("topic", topic, settings)])
    finally:
        admin.close()


def publish(broker: str, topic: str, rows: list[Row]) -> None:
    """The input takes any time: it is as old topics, and those of other settings, are."""
    alter(broker, topic, {"message.timestamp.after.max.ms": str(2**63 - 1), "message.timestamp.before.max.ms": str(2**63 - 1)})
    producer = KafkaProducer(bootstrap_servers=broker, linger_ms=5)
    for number, key, time_ms in rows:
        producer.send(topic, orjson.dumps({"x": [number, 0, 0]}), key, [], 0, time_ms)
    producer.close()


def numbered(now_ms: int) -> tuple[list[Row], set[int]]:
    """Records of which a few have no key, or a time that is far off."""
    odd: dict[int, tuple[bytes | None, int]] = {
        7: (None, now_ms),
        8: (b"k", now_ms + 2 * HOUR_MS),
        100: (b"k", now_ms * 1000),
        101: (None, now_ms + 2 * HOUR_MS),
        ROWS - 1: (None, now_ms),
    }
    return [(i, *odd.get(i, (b"k", now_ms))) for i in range(ROWS)], set(odd)


def check(spec: StreamSpec, broker: str, rows: list[Row], odd: set[int]) -> None:
    once = spec.guarantee is Guarantee.EXACTLY_ONCE
    answers = [int(orjson.loads(r.value)["sum"][0]) for r in read(broker, spec.output.topic, ROWS - len(odd))]
    letters = read(broker, spec.dead_letters.topic, len(odd))
    dead = [int(orjson.loads(record.value)["x"][0]) for record in letters]
    if once:
        assert answers == [i for i in range(ROWS) if i not in odd]
        assert dead == sorted(odd)
    else:
        assert list(dict.fromkeys(answers)) == [i for i in range(ROWS) if i not in odd]
        assert set(dead) == odd
    for number, letter in zip(dead, letters, strict=True):
        headers, (_, key, time_ms) = dict(letter.headers), rows[number]
        assert headers["__connect.errors.stage"] == b"KAFKA_PRODUCE"
        assert letter.key == (f"{spec.input.topic}/0/{number}".encode() if key is None else key)
        assert ("headrace.made_key" in headers) is (key is None)
        if abs(time_ms - rows[0][2]) > HOUR_MS:
            assert headers["headrace.timestamp_ms"] == str(time_ms).encode()


def test_what_the_settings_tell_beforehand_costs_no_recovery(spec: StreamSpec, broker: str) -> None:
    rows, odd = numbered(int(time.time() * 1000))
    publish(broker, spec.input.topic, rows)
    for topic in (spec.output.topic, spec.dead_letters.topic):
        alter(broker, topic, COMPACT)
    with working(spec, broker) as loop:
        until(lambda: loop.counters.rows_out + loop.counters.rows_dead == ROWS, WAIT_S)
        assert loop.counters.recoveries == 0
    check(spec, broker, rows, odd)


@pytest.mark.proof
def test_where_the_settings_can_not_be_asked_smaller_commits_find_them(
    spec: StreamSpec, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_settings, "limits_in", untold)
    rows, odd = numbered(int(time.time() * 1000))
    publish(broker, spec.input.topic, rows)
    for topic in (spec.output.topic, spec.dead_letters.topic):
        alter(broker, topic, COMPACT)
    with working(spec, broker) as loop:
        until(lambda: sum(loop.lag().values()) == 0 and loop.counters.rows_dead >= len(odd), WAIT_S)
        until(lambda: loop.phase is WorkerPhase.RUNNING and loop.stuck.recoveries == 0, WAIT_S)
        assert 0 < loop.counters.recoveries < 150
    check(spec, broker, rows, odd)


def test_a_topic_that_takes_no_letter_at_all_holds_the_stream_which_says_so(
    spec: StreamSpec, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_settings, "limits_in", untold)
    now_ms = int(time.time() * 1000)
    publish(broker, spec.input.topic, [(0, b"k", now_ms), (1, None, now_ms), (2, b"k", now_ms)])
    alter(broker, spec.output.topic, COMPACT)
    alter(broker, spec.dead_letters.topic, {"max.message.bytes": "100"})
    with working(spec, broker) as loop:
        until(lambda: loop.stuck.recoveries > 4 and loop.phase is WorkerPhase.HOLDING, WAIT_S)
        assert f"{spec.input.topic}/0 from offset 1" in loop.message
        assert loop.counters.rows_dead == 0
        alter(broker, spec.dead_letters.topic, {"max.message.bytes": "1000000"})
        until(lambda: loop.counters.rows_out == 2 and loop.counters.rows_dead == 1, WAIT_S)
        until(lambda: loop.phase is WorkerPhase.RUNNING and not loop.message, WAIT_S)
    (letter,) = read(broker, spec.dead_letters.topic, 1)
    assert dict(letter.headers)["__connect.errors.offset"] == b"1"
