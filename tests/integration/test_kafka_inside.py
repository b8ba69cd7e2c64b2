"""What is done about kafka-python's own faults, on a real broker."""

from __future__ import annotations

import pytest

from consumers.stream.kafka.kafka_python import names
from consumers.stream.kafka.kafka_python.names import Use, has, missing
from consumers.stream.kafka.kafka_python.reader import KafkaReader
from consumers.stream.kafka.member import KafkaLog
from consumers.stream.log.port import Partition
from consumers.stream.spec import Client, Guarantee
from tests.contract.test_log import WAIT_S, KafkaWorld, answer, take, values
from tests.support.waiting import until


def test_a_join_that_ends_between_two_polls_is_kept(broker: str) -> None:
    world = KafkaWorld(broker, Guarantee.EXACTLY_ONCE, Client.KAFKA_PYTHON)
    try:
        log = world.member("a")
        assert isinstance(log, KafkaLog)
        assert isinstance(log._reader, KafkaReader)
        consumer = log._reader._consumer
        consumer.partitions_for_topic(world.spec.input.topic)  # a join that does not know them yet is followed by another
        coordinator = consumer._coordinator

        def joined() -> bool:
            join = coordinator._join_task
            if join is None or join.failed():
                consumer.poll(timeout_ms=0)
                return False
            return bool(join.succeeded())

        until(joined, WAIT_S)

        def owned() -> bool:
            log.poll(max_rows=1, timeout_s=0.2)
            return log.epoch(Partition(world.spec.input.topic, 0)) is not None

        until(owned, WAIT_S)
        assert consumer.group_metadata().generation_id == 1
    finally:
        world.close()


def test_a_join_that_nothing_calls_for_any_more_is_ended_all_the_same(broker: str) -> None:
    world = KafkaWorld(broker, Guarantee.AT_LEAST_ONCE, Client.KAFKA_PYTHON)
    try:
        log = world.member("a")
        assert isinstance(log, KafkaLog)
        assert isinstance(log._reader, KafkaReader)
        consumer = log._reader._consumer
        coordinator = consumer._coordinator

        def under_way() -> bool:
            consumer.poll(timeout_ms=0)
            return coordinator._join_task is not None

        until(under_way, WAIT_S)
        # As where topics had changed, which the leader has dealt out by now.
        coordinator.rejoin_needed = False
        coordinator._joined_subscription = set(consumer.subscription())
        coordinator._assignment_snapshot = coordinator._metadata_snapshot
        assert not coordinator.need_rejoin()

        def owned() -> bool:
            log.poll(max_rows=1, timeout_s=0.2)
            return log.epoch(Partition(world.spec.input.topic, 0)) is not None

        until(owned, WAIT_S)
    finally:
        world.close()


def test_without_the_insides_that_only_make_it_faster_all_is_read_and_written(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spared = {use: {"kafka.KafkaConsumer": ("_gone",)} for use in Use if use.without}
    monkeypatch.setattr(names, "NAMES", {**names.NAMES, **spared})
    missing.cache_clear()
    has.cache_clear()
    world = KafkaWorld(broker, Guarantee.EXACTLY_ONCE, Client.KAFKA_PYTHON)
    try:
        for i in range(10):
            world.put(i % 2, b"k", str(i).encode())
        log = world.member("a")
        taken = take(log, 10)
        assert values(taken) == {0: [b"0", b"2", b"4", b"6", b"8"], 1: [b"1", b"3", b"5", b"7", b"9"]}
        assert {tuple(headers) for records in taken for headers in records.headers} == {(("h", b"1"),)}
        log.commit(*answer(world, taken)).result(WAIT_S)
        assert sorted(world.committed_values(world.spec.output.topic), key=str) == [b"re:%d" % i for i in range(10)]
    finally:
        world.close()
        missing.cache_clear()
        has.cache_clear()
