"""What every log promises, on memory and on a real Kafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, KafkaAdminClient  # type: ignore[import-untyped]

from cluster.errors import BadInput, NotFound, Unreachable
from consumers.stream.kafka.clients import open_log
from consumers.stream.kafka.making_topics import ensure_topics
from consumers.stream.log.memory_log import MemoryBroker, MemoryLog, Stored
from consumers.stream.log.port import Log, Member, Outgoing, Partition, RecordRefused, Records, RecordTooLarge, subset
from consumers.stream.spec import Client, Guarantee, StreamInput, StreamOutput, StreamSpec, Topic
from tests.support.waiting import until

WAIT_S = 120.0  # a rebalance on a busy machine
NOW_MS = int(time.time() * 1000)  # of today: a real broker's retention deletes what is old, within minutes


class World(Protocol):
    """A broker with the topics in (2 partitions), out (2) and dead (1), as a test sees it."""

    spec: StreamSpec

    def member(self, name: str) -> Log: ...
    def put(self, partition: int, key: bytes | None, value: bytes | None) -> None: ...
    def committed_values(self, topic: str) -> list[bytes | None]: ...
    def refuse_keyless(self, topic: str) -> None: ...
    def close(self) -> None: ...


def spec_of(guarantee: Guarantee) -> StreamSpec:
    tag = uuid.uuid4().hex[:8]
    return StreamSpec(
        model="m",
        input=StreamInput(topic=f"in-{tag}", partitions=2),
        output=StreamOutput(topic=f"out-{tag}", partitions=2),
        dead_letters=Topic(topic=f"dead-{tag}", partitions=1),
        guarantee=guarantee,
        session_timeout_s=6,
    )


@dataclass
class MemoryWorld:
    spec: StreamSpec = field(default_factory=lambda: spec_of(Guarantee.EXACTLY_ONCE))
    broker: MemoryBroker = field(default_factory=MemoryBroker)

    def __post_init__(self) -> None:
        for topic in (self.spec.input, self.spec.output, self.spec.dead_letters):
            self.broker.create(topic.topic, topic.partitions)

    def member(self, name: str) -> Log:
        return MemoryLog(self.broker, self.spec.input.topic, "group")

    def put(self, partition: int, key: bytes | None, value: bytes | None) -> None:
        self.broker.append(self.spec.input.topic, partition, Stored(key, value, (("h", b"1"),), NOW_MS))

    def committed_values(self, topic: str) -> list[bytes | None]:
        return [record.value for partition in self.broker.topics[topic] for record in partition]

    def refuse_keyless(self, topic: str) -> None:
        self.broker.refuses = lambda to, record: "no key" if to == topic and record.key is None else ""

    def close(self) -> None:
        """Nothing to free."""


class KafkaWorld:
    def __init__(self, brokers: str, guarantee: Guarantee, client: Client) -> None:
        self.brokers = brokers
        self.spec = spec_of(guarantee).model_copy(update={"client": client})
        ensure_topics(self.spec, brokers)
        self.producer = KafkaProducer(bootstrap_servers=brokers)
        self.members: list[Log] = []

    def member(self, name: str) -> Log:
        tag = self.spec.input.topic
        log = open_log(self.spec, self.brokers, Member(f"group-{tag}", f"{tag}-{name}", f"{tag}-{name}"))
        self.members.append(log)
        return log

    def put(self, partition: int, key: bytes | None, value: bytes | None) -> None:
        headers = [("h", b"1")]
        self.producer.send(self.spec.input.topic, value, key, headers, partition, NOW_MS).get(20)

    def committed_values(self, topic: str) -> list[bytes | None]:
        consumer = KafkaConsumer(bootstrap_servers=self.brokers, isolation_level="read_committed", auto_offset_reset="earliest")
        try:
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            values: dict[TopicPartition, list[bytes | None]] = {partition: [] for partition in partitions}
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                for partition, records in consumer.poll(timeout_ms=200).items():
                    values[partition] += [record.value for record in records]
            return [value for partition in sorted(values) for value in values[partition]]
        finally:
            consumer.close()

    def refuse_keyless(self, topic: str) -> None:
        self.alter(topic, {"cleanup.policy": "compact"})

    def alter(self, topic: str, settings: dict[str, str]) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.brokers)
        admin.alter_configs([ConfigResource("topic", topic, settings)])
        admin.close()

    def close(self) -> None:
        for member in self.members:
            member.close()
        self.producer.close()


KAFKAS = {
    f"{client}-{guarantee}": (client, guarantee)
    for client in (Client.KAFKA_PYTHON, Client.LIBRDKAFKA)
    for guarantee in (Guarantee.EXACTLY_ONCE, Guarantee.AT_LEAST_ONCE)
}


@pytest.fixture(params=["memory", *KAFKAS])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made: World
    if request.param == "memory":
        made = MemoryWorld()
    else:
        client, guarantee = KAFKAS[request.param]
        made = KafkaWorld(request.getfixturevalue("broker"), guarantee, client)
    yield made
    made.close()


def take(log: Log, rows: int) -> list[Records]:
    taken: list[Records] = []
    deadline = time.monotonic() + WAIT_S
    while sum(map(len, taken)) < rows and time.monotonic() < deadline:
        taken += log.poll(max_rows=100, timeout_s=0.2)
    assert sum(map(len, taken)) == rows
    return taken


def values(taken: list[Records]) -> dict[int, list[bytes | None]]:
    found: dict[int, list[bytes | None]] = {}
    for records in taken:
        found.setdefault(records.partition.number, []).extend(records.values)
    return found


def answer(world: World, taken: list[Records]) -> tuple[list[Outgoing], dict[Partition, int]]:
    out = [
        Outgoing(
            world.spec.output.topic,
            r.partition.number,
            r.keys,
            [b"re:" + (v or b"") for v in r.values],
            [list(headers) for headers in r.headers],
            r.timestamps_ms,
        )
        for r in taken
    ]
    return out, {r.partition: r.offsets[-1] + 1 for r in taken}


def test_records_arrive_whole_and_in_order(world: World) -> None:
    for i in range(10):
        world.put(i % 2, f"k{i}".encode(), f"v{i}".encode())
    log = world.member("a")
    taken = take(log, 10)
    assert values(taken) == {0: [b"v0", b"v2", b"v4", b"v6", b"v8"], 1: [b"v1", b"v3", b"v5", b"v7", b"v9"]}
    first = next(r for r in taken if r.partition.number == 0)
    assert first.partition.topic == world.spec.input.topic
    assert list(first.offsets)[:1] == [0]
    assert first.keys[0] == b"k0"
    assert list(first.headers[0]) == [("h", b"1")]
    assert first.timestamps_ms[0] == NOW_MS
    assert log.epoch(first.partition) == first.epoch


def test_a_poll_takes_no_more_than_asked_and_loses_nothing(world: World) -> None:
    for i in range(7):
        world.put(0, None, str(i).encode())
    log = world.member("a")
    seen: list[bytes | None] = []
    deadline = time.monotonic() + WAIT_S
    while len(seen) < 7 and time.monotonic() < deadline:
        polled = log.poll(max_rows=3, timeout_s=0.2)
        assert sum(map(len, polled)) <= 3
        seen += [value for records in polled for value in records.values]
        log.keep_alive()
    assert seen == [str(i).encode() for i in range(7)]


def test_a_commit_shows_the_answers_and_outlives_the_member(world: World) -> None:
    for i in range(4):
        world.put(0, b"k", str(i).encode())
    log = world.member("a")
    log.commit(*answer(world, take(log, 4))).result(WAIT_S)
    # A broker marks a transaction as committed in its topics a moment after it says that it is.
    until(lambda: world.committed_values(world.spec.output.topic) == [b"re:0", b"re:1", b"re:2", b"re:3"], WAIT_S)
    until(lambda: not log.poll(max_rows=10, timeout_s=0.05) and sum(each.lag for each in log.owned().values()) == 0, WAIT_S)
    log.close()
    world.put(0, b"k", b"4")
    assert values(take(world.member("a"), 1)) == {0: [b"4"]}


def test_recovering_goes_back_to_what_is_committed(world: World) -> None:
    for i in range(3):
        world.put(0, b"k", str(i).encode())
    log = world.member("a")
    before = take(log, 3)
    log.recover()
    again = take(log, 3)
    assert values(again) == {0: [b"0", b"1", b"2"]}
    assert before[0].epoch != log.epoch(before[0].partition) == again[0].epoch
    log.commit(*answer(world, again)).result(WAIT_S)
    world.put(0, b"k", b"3")
    rest = take(log, 1)
    assert values(rest) == {0: [b"3"]}
    log.recover()
    assert values(take(log, 1))[0][-1:] == [b"3"]


def test_a_record_without_key_and_value_can_be_written(world: World) -> None:
    world.put(0, b"k", None)
    log = world.member("a")
    taken = take(log, 1)
    assert values(taken) == {0: [None]}
    out = Outgoing(world.spec.dead_letters.topic, 0, [None], [None], [[]], [NOW_MS])
    log.commit([out], {taken[0].partition: 1}).result(WAIT_S)
    until(lambda: world.committed_values(world.spec.dead_letters.topic) in ([b""], [None]), WAIT_S)


def test_a_refused_record_fails_its_commit_and_the_others_commit_after_a_recovery(world: World) -> None:
    log = world.member("a")
    assert not log.limits_of(world.spec.output.topic).keyed
    world.refuse_keyless(world.spec.output.topic)
    for i in range(6):
        world.put(0, None if i == 2 else b"k", str(i).encode())
    taken = take(log, 6)
    with pytest.raises(RecordRefused, match=r"(?i)key|validate record"):
        log.commit(*answer(world, taken)).result(WAIT_S)
    if world.spec.guarantee is Guarantee.EXACTLY_ONCE:
        assert world.committed_values(world.spec.output.topic) == []
    log.recover()
    again = take(log, 6)
    assert values(again) == {0: [b"0", b"1", b"2", b"3", b"4", b"5"]}  # no offset was committed
    before = [subset(records, [row for row, offset in enumerate(records.offsets) if offset < 2]) for records in again]
    log.commit(*answer(world, [records for records in before if len(records)])).result(WAIT_S)
    log.poll(max_rows=1, timeout_s=0)  # at least once, it is the next call that commits the offsets
    log.recover()
    rest = take(log, 4)
    assert values(rest) == {0: [b"2", b"3", b"4", b"5"]}
    log.commit(*answer(world, [replace(records, keys=[b"made"] * len(records)) for records in rest])).result(WAIT_S)
    expected = [b"re:" + str(i).encode() for i in range(6)]
    until(lambda: world.committed_values(world.spec.output.topic)[-6:] == expected, WAIT_S)


@pytest.mark.parametrize("kind", KAFKAS)
@pytest.mark.parametrize(
    ("settings", "shift_ms", "rows"),
    [
        ({}, 7_200_000, 3),
        ({"message.timestamp.before.max.ms": "3600000"}, -7_200_000, 3),
        ({"message.timestamp.before.max.ms": "3600000"}, -7_200_000, 30_000),  # still sent while the first batch is refused
        ({"max.message.bytes": "3000"}, 0, 3),
    ],
)
def test_refusals_of_time_and_size_are_told_apart(
    broker: str, kind: str, settings: dict[str, str], shift_ms: int, rows: int
) -> None:
    client, guarantee = KAFKAS[kind]
    world = KafkaWorld(broker, guarantee, client)
    try:
        world.put(0, b"k", b"v")
        log = world.member("a")
        (taken,) = take(log, 1)
        world.alter(world.spec.output.topic, settings)
        now_ms = int(time.time() * 1000)
        large = b"v" * (4000 if not shift_ms else 1)
        times_ms = [now_ms + shift_ms, *[now_ms] * (rows - 1)]
        out = Outgoing(world.spec.output.topic, 0, [b"k"] * rows, [large, *[b"v" * 50] * (rows - 1)], [[]] * rows, times_ms)
        with pytest.raises(RecordRefused) as caught:
            log.commit([out], {taken.partition: 1}).result(WAIT_S)
        assert isinstance(caught.value, RecordTooLarge) is (shift_ms == 0)
        log.recover()
        known = log.limits_of(world.spec.output.topic)
        assert known.allows_time(now_ms, now_ms)
        assert known.allows_time(now_ms + shift_ms, now_ms) is (shift_ms == 0)
        (again,) = take(log, 1)
        log.commit(*answer(world, [again])).result(WAIT_S)
        until(lambda: world.committed_values(world.spec.output.topic)[-1:] == [b"re:v"], WAIT_S)
    finally:
        world.close()


@pytest.mark.parametrize("client", [Client.KAFKA_PYTHON, Client.LIBRDKAFKA])
@pytest.mark.parametrize(("setting", "value"), [("max.message.bytes", "300"), ("min.insync.replicas", "2")])
def test_settings_that_refuse_every_record_are_said_at_the_start(broker: str, client: Client, setting: str, value: str) -> None:
    world = KafkaWorld(broker, Guarantee.EXACTLY_ONCE, client)
    try:
        world.alter(world.spec.dead_letters.topic, {setting: value})
        with pytest.raises(BadInput, match=f"{world.spec.dead_letters.topic}: {setting}={value}"):
            world.member("a")
    finally:
        world.close()


@pytest.mark.parametrize("kind", KAFKAS)
def test_a_topic_that_takes_less_by_now_gets_smaller_batches(broker: str, kind: str) -> None:
    client, guarantee = KAFKAS[kind]
    world = KafkaWorld(broker, guarantee, client)
    try:
        for i in range(60):
            world.put(0, b"k", b"%03d" % i * 100)
        log = world.member("a")
        taken = take(log, 60)
        world.alter(world.spec.output.topic, {"max.message.bytes": "4000"})
        expected = [b"re:" + b"%03d" % i * 100 for i in range(60)]

        def all_written() -> bool:
            nonlocal taken
            try:
                if taken:
                    log.commit(*answer(world, taken)).result(WAIT_S)
            except (Unreachable, RecordRefused):
                log.recover()
            taken = log.poll(max_rows=100, timeout_s=0.2)
            return set(world.committed_values(world.spec.output.topic)) == set(expected)

        until(all_written, WAIT_S)
        if guarantee is Guarantee.EXACTLY_ONCE:
            assert world.committed_values(world.spec.output.topic) == expected
    finally:
        world.close()


@pytest.mark.parametrize("kind", KAFKAS)
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_what_a_transaction_gave_up_is_not_read(broker: str, kind: str, compression: str | None) -> None:
    client, guarantee = KAFKAS[kind]
    world = KafkaWorld(broker, guarantee, client)
    writer = KafkaProducer(bootstrap_servers=broker, transactional_id=world.spec.input.topic, compression_type=compression)
    try:
        writer.init_transactions()
        for word, end in ((b"given up", writer.abort_transaction), (b"kept", writer.commit_transaction)) * 2:
            writer.begin_transaction()
            for i in range(20):
                writer.send(world.spec.input.topic, word + b" %d" % i, b"k", [("h", b"1")], 0)
            end()
        world.put(0, b"k", b"after")
        log = world.member("a")
        assert values(take(log, 41)) == {0: [*([b"kept %d" % i for i in range(20)] * 2), b"after"]}
    finally:
        writer.close()
        world.close()


def test_lag_counts_what_is_not_committed(world: World) -> None:
    for i in range(5):
        world.put(1, b"k", str(i).encode())
    log = world.member("a")
    taken = take(log, 5)
    partition = taken[0].partition
    until(lambda: not log.poll(max_rows=1, timeout_s=0.05) and log.owned()[partition].lag == 5, WAIT_S)


def test_two_members_share_and_the_one_that_is_left_takes_over(world: World) -> None:
    first = world.member("a")
    first.poll(max_rows=1, timeout_s=0.2)
    second = world.member("b")

    def owned(log: Log) -> set[int]:
        try:
            log.poll(max_rows=1, timeout_s=0.05)
        except Unreachable:  # the group was shared out anew just as the first one's start was committed: as the loop does
            log.recover()
        return {n for n in range(2) if log.epoch(Partition(world.spec.input.topic, n)) is not None}

    until(lambda: [len(owned(first)), len(owned(second))] == [1, 1] and owned(first) != owned(second), WAIT_S)
    second.close()
    until(lambda: owned(first) == {0, 1}, WAIT_S)


def test_a_lost_partition_can_not_be_committed(world: World) -> None:
    world.put(0, b"k", b"0")
    world.put(1, b"k", b"1")
    first = world.member("a")
    taken = take(first, 2)
    second = world.member("b")

    def both_own_one() -> bool:
        first.keep_alive()
        second.keep_alive()
        mine = [p for p in range(2) if first.epoch(Partition(world.spec.input.topic, p)) is not None]
        theirs = [p for p in range(2) if second.epoch(Partition(world.spec.input.topic, p)) is not None]
        return len(mine) == len(theirs) == 1

    until(both_own_one, WAIT_S)
    lost = [r for r in taken if first.epoch(r.partition) is None]
    with pytest.raises(Unreachable, match="another member"):
        first.commit(*answer(world, lost)).result(WAIT_S)
    assert world.committed_values(world.spec.output.topic) == []


def test_a_member_is_in_trouble_until_the_group_has_it(world: World) -> None:
    log = world.member("a")

    def no_trouble() -> bool:
        log.poll(max_rows=1, timeout_s=0)  # even a caller that never waits gets in
        return log.trouble() == ""

    until(no_trouble, WAIT_S)


def test_a_missing_topic_is_named(world: World) -> None:
    with pytest.raises(NotFound, match="nowhere-at-all"):
        world.member("a").partitions_of("nowhere-at-all")


def test_a_broker_that_is_away_is_said_so() -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        ensure_topics(spec_of(Guarantee.EXACTLY_ONCE), "127.0.0.1:1")


def test_topics_that_are_there_are_taken_as_they_are(broker: str) -> None:
    world = KafkaWorld(broker, Guarantee.EXACTLY_ONCE, Client.KAFKA_PYTHON)
    world.spec = world.spec.model_copy(update={"output": world.spec.output.model_copy(update={"partitions": 3})})
    try:
        ensure_topics(world.spec, broker)
        assert world.member("a").partitions_of(world.spec.output.topic) == 2
    finally:
        world.close()


@pytest.mark.parametrize("client", [Client.KAFKA_PYTHON, Client.LIBRDKAFKA])
@pytest.mark.parametrize("by_pattern", [False, True])
def test_several_topics_are_one_input(broker: str, by_pattern: bool, client: Client) -> None:
    world = KafkaWorld(broker, Guarantee.EXACTLY_ONCE, client)
    names = (f"{world.spec.input.topic}.a", f"{world.spec.input.topic}.b")
    ensure_topics(world.spec.model_copy(update={"input": StreamInput(topics=names, partitions=2)}), broker)
    chosen = StreamInput(pattern=rf"{world.spec.input.topic}\..") if by_pattern else StreamInput(topics=names, partitions=2)
    world.spec = world.spec.model_copy(update={"input": chosen})
    try:
        for name in names:
            world.producer.send(name, name.encode(), b"k", partition=1).get(20)
        log = open_log(world.spec, broker, Member(f"group-{names[0]}", names[0], names[0]))
        world.members.append(log)
        taken = take(log, 2)
        assert {(r.partition.topic, r.partition.number, r.values[0]) for r in taken} == {(n, 1, n.encode()) for n in names}
    finally:
        world.close()
