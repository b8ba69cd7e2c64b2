"""What is done about kafka-python's own faults, on a real broker."""

from __future__ import annotations

from consumers.stream.kafka.kafka_python.log import KafkaLog
from consumers.stream.log.port import Partition
from consumers.stream.spec import Client, Guarantee
from tests.contract.test_log import WAIT_S, KafkaWorld
from tests.support.waiting import until


def test_a_join_that_ends_between_two_polls_is_kept(broker: str) -> None:
    world = KafkaWorld(broker, Guarantee.EXACTLY_ONCE, Client.KAFKA_PYTHON)
    try:
        log = world.member("a")
        assert isinstance(log, KafkaLog)
        log._consumer.partitions_for_topic(world.spec.input.topic)  # a join that does not know them yet is followed by another
        coordinator = log._consumer._coordinator

        def joined() -> bool:
            join = coordinator._join_task
            if join is None or join.failed():
                log._consumer.poll(timeout_ms=0)
                return False
            return bool(join.succeeded())

        until(joined, WAIT_S)

        def owned() -> bool:
            log.poll(max_rows=1, timeout_s=0.2)
            return log.epoch(Partition(world.spec.input.topic, 0)) is not None

        until(owned, WAIT_S)
        assert log._consumer.group_metadata().generation_id == 1
    finally:
        world.close()
