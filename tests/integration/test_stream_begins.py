"""Where partitions begin, on a real broker with both clients: after retention, in new partitions, behind transactions."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as RdPartition
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from consumers.stream.kafka.clients import open_log
from consumers.stream.kafka.kafka_python.inside import stable_offsets
from consumers.stream.kafka.making_topics import ensure_topics
from consumers.stream.log.port import Member, OwnedPartition, Partition
from consumers.stream.log.starts import NotesInProcess, StartReason
from consumers.stream.loop import Loop
from consumers.stream.spec import Begin, Client, StreamInput, StreamOutput, StreamSpec, Topic
from tests.support.broker_admin import administered
from tests.support.stream_parts import SumScoring
from tests.support.stream_topics import WAIT_S, read_values
from tests.support.waiting import until

CLIENTS = [Client.KAFKA_PYTHON, Client.LIBRDKAFKA]


@dataclass
class Site:
    """A stream's topics, and its notes, which outlive its workers."""

    brokers: str
    spec: StreamSpec
    notes: NotesInProcess = field(default_factory=NotesInProcess)

    @property
    def input(self) -> str:
        return self.spec.input.names[0]

    @property
    def group(self) -> str:
        return self.spec.group_of("s")

    def put(self, first: int, count: int, partition: int = 0, topic: str | None = None) -> None:
        producer = KafkaProducer(bootstrap_servers=self.brokers)
        for number in range(first, first + count):
            producer.send(topic or self.input, b'{"x": [%d, 0, 0]}' % number, b"k", partition=partition)
        producer.close()

    def answered(self) -> list[int]:
        """The numbers that were scored, in the order of their answers."""
        return [int(value["sum"][0]) for value in read_values(self.brokers, self.spec.output.topic)]

    def await_answers(self, count: int) -> list[int]:
        until(lambda: len(self.answered()) >= count, WAIT_S)
        return self.answered()

    @contextmanager
    def worker(self, rank: int = 0) -> Iterator[Loop]:
        scoring, member = SumScoring(), f"{self.group}-{rank}"
        open_it = lambda: open_log(self.spec, self.brokers, Member(self.group, member, member), self.notes)  # noqa: E731
        loop = Loop("s", self.spec, scoring, open_it)
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            yield loop
        finally:
            loop.stop()
            thread.join()
            scoring.executor.shutdown()

    def admin(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.brokers)


@pytest.fixture(params=CLIENTS)
def make(broker: str, request: pytest.FixtureRequest) -> Callable[..., Site]:
    def make_site(partitions: int = 1, begin: Begin = Begin.EARLIEST, **chosen: str) -> Site:
        tag = uuid.uuid4().hex[:8]
        spec = StreamSpec(
            model="m",
            input=StreamInput(**(chosen or {"topic": f"in-{tag}"}), partitions=partitions, begin=begin),  # type: ignore[arg-type]
            output=StreamOutput(topic=f"out-{tag}", partitions=1),
            dead_letters=Topic(topic=f"dead-{tag}", partitions=1),
            group=f"group-{tag}",
            client=request.param,
            session_timeout_s=6,
        )
        ensure_topics(spec, broker)
        return Site(broker, spec)

    return make_site


def read_from(loop: Loop, partition: int = 0) -> OwnedPartition:
    """What is known of a partition of the only topic, once it is read."""
    found: list[OwnedPartition] = []

    def is_read() -> bool:
        found[:] = [known for where, known in loop.owned().items() if where.number == partition and known.began_at is not None]
        return bool(found)

    until(is_read, WAIT_S)
    return found[0]


def test_latest_holds_from_the_first_start_on(make: Callable[..., Site]) -> None:
    """What is written while no worker runs is scored, though nothing was ever read."""
    site = make(begin=Begin.LATEST)
    site.put(0, 10)
    with site.worker() as loop:
        assert (read_from(loop).began_at, read_from(loop).why) == (10, StartReason.FIRST_START)
    site.put(100, 5)
    with site.worker() as loop:
        assert site.await_answers(5) == [100, 101, 102, 103, 104]
        assert read_from(loop).why == StartReason.COMMITTED


def test_what_retention_deleted_is_a_gap_and_the_rest_is_scored(make: Callable[..., Site]) -> None:
    site = make(begin=Begin.LATEST)
    with site.worker() as loop:
        read_from(loop)
        site.put(0, 300)
        site.await_answers(300)
        until(lambda: loop.lag()[Partition(site.input, 0)] == 0, WAIT_S)
    site.put(300, 300)
    with administered(site.brokers) as admin:
        admin.delete_records({TopicPartition(site.input, 0): 600})
    site.put(600, 100)
    with site.worker() as loop:
        known = read_from(loop)
        assert (known.began_at, known.why, known.missing) == (600, StartReason.GAP, 300)
        assert site.await_answers(400)[300:] == list(range(600, 700))


def test_records_that_go_while_they_are_to_be_read_are_a_gap(make: Callable[..., Site]) -> None:
    """The topic is cut off in front of a worker that is frozen in its scoring."""
    site = make()
    site.put(0, 50)
    with site.worker() as loop:
        site.await_answers(50)
    site.put(50, 50)
    with administered(site.brokers) as admin:
        admin.delete_records({TopicPartition(site.input, 0): 80})
    with site.worker() as loop:
        assert site.await_answers(70)[50:] == list(range(80, 100))
        assert read_from(loop).missing == 30


@pytest.mark.parametrize("running", [False, True])
def test_a_topic_made_anew_is_scored_from_its_first_record(make: Callable[..., Site], running: bool) -> None:
    site = make(begin=Begin.LATEST)

    def make_anew() -> None:
        with administered(site.brokers) as admin:
            admin.delete_topics([site.input])
            until(lambda: site.input not in admin.list_topics(), WAIT_S)
            admin.create_topics({site.input: {"num_partitions": 1}}, wait_for_metadata=True)
        site.put(1000, 10)

    with site.worker() as loop:
        read_from(loop)
        site.put(0, 5)
        site.await_answers(5)
        if running:
            make_anew()
            assert site.await_answers(15)[5:] == list(range(1000, 1010))
            assert read_from(loop).why == StartReason.ANOTHER_TOPIC
    if not running:
        make_anew()
        with site.worker() as loop:
            assert site.await_answers(15)[5:] == list(range(1000, 1010))
            assert read_from(loop).why == StartReason.ANOTHER_TOPIC


@pytest.mark.proof
@pytest.mark.parametrize("running", [False, True])
def test_partitions_that_are_added_are_scored_from_their_first_record(make: Callable[..., Site], running: bool) -> None:
    site = make(partitions=2, begin=Begin.LATEST)

    def add() -> None:
        with administered(site.brokers) as admin:
            admin.create_partitions({site.input: 4})
        for number in (2, 3):
            site.put(100 * number, 10, number)

    with site.worker() as loop:
        read_from(loop, 1)
        site.put(0, 3)
        site.await_answers(3)
        if running:
            add()
            assert sorted(site.await_answers(23)[3:]) == [*range(200, 210), *range(300, 310)]
    if not running:
        add()
        with site.worker() as loop:
            assert sorted(site.await_answers(23)[3:]) == [*range(200, 210), *range(300, 310)]
            assert read_from(loop, 3).why == StartReason.NEW_PARTITION


@pytest.mark.proof
def test_a_topic_that_the_pattern_takes_in_later_is_scored_from_its_first_record(make: Callable[..., Site]) -> None:
    tag = uuid.uuid4().hex[:8]
    site = make(pattern=f"p{tag}-.*", begin=Begin.LATEST)
    with administered(site.brokers) as admin:
        admin.create_topics({f"p{tag}-a": {"num_partitions": 1}}, wait_for_metadata=True)
        site.put(0, 3, topic=f"p{tag}-a")
        with site.worker() as loop:
            read_from(loop)
        admin.create_topics({f"p{tag}-b": {"num_partitions": 1}}, wait_for_metadata=True)
    site.put(100, 5, topic=f"p{tag}-b")
    with site.worker():
        assert site.await_answers(5) == [100, 101, 102, 103, 104]


@pytest.mark.proof
def test_a_commit_that_is_gone_holds_the_partition_and_says_so(make: Callable[..., Site]) -> None:
    """As when the group rested for longer than the broker keeps its commits: scored twice it must not be."""
    site = make()
    site.put(0, 5)
    with site.worker():
        site.await_answers(5)
    part = TopicPartition(site.input, 0)

    def forgotten() -> bool:
        with administered(site.brokers) as admin:
            admin.delete_group_offsets(site.group, [part])
            return stable_offsets(admin, site.group, [part])[part].offset is None

    until(forgotten, WAIT_S)  # not before the broker has counted the worker out
    site.put(5, 5)
    with site.worker() as loop:
        until(lambda: any("commit of it is gone" in known.held for known in loop.owned().values()), WAIT_S)
    assert site.answered() == [0, 1, 2, 3, 4]


def test_a_commit_of_a_transaction_that_is_open_is_waited_for(make: Callable[..., Site]) -> None:
    """What broke exactly once with librdkafka: the assignment changes while the partition's commit is not stable yet.

    Its client then forgets that it has to ask again, and begins where `auto.offset.reset` says.
    """
    site = make(partitions=3)
    for number in range(3):
        site.put(100 * number, 20, number)
    with site.worker():
        site.await_answers(60)
    site.put(20, 10, 0)
    with left_open(site, 0, upto=25) as producer, site.worker() as first:
        until(lambda: is_held(first, 0), WAIT_S)
        with site.worker(1) as second:  # so the assignment changes
            until(lambda: is_held(first, 0) or is_held(second, 0), WAIT_S)
            until(lambda: len(first.lag()) + len(second.lag()) == 2 and len(second.owned()) > 0, WAIT_S)
            for number in (1, 2):
                site.put(100 * number + 20, 5, number)
            assert sorted(site.await_answers(70)[60:]) == [*range(120, 125), *range(220, 225)]
            producer.commit_transaction(20)
            assert sorted(site.await_answers(75)[70:]) == [25, 26, 27, 28, 29]
    assert len(site.answered()) == 75


def is_held(loop: Loop, partition: int) -> bool:
    return any(where.number == partition and "open transaction" in known.held for where, known in loop.owned().items())


@contextmanager
def left_open(site: Site, partition: int, *, upto: int) -> Iterator[Producer]:
    """A transaction that would commit for the group, as that of a worker that stands still. Given up in the end."""
    nobody = Consumer({"bootstrap.servers": site.brokers, "group.id": site.group})
    producer = Producer({"bootstrap.servers": site.brokers, "transactional.id": uuid.uuid4().hex})
    try:
        producer.init_transactions(20)
        producer.begin_transaction()
        # No generation is given, so the broker takes it, whoever is in the group.
        producer.send_offsets_to_transaction([RdPartition(site.input, partition, upto)], nobody.consumer_group_metadata(), 20)
        yield producer
    finally:
        nobody.close()
        producer.purge()


def test_a_foreign_transaction_that_is_left_open_is_no_lag_and_is_told(make: Callable[..., Site]) -> None:
    site = make()
    site.put(0, 5)
    with site.worker() as loop:
        site.await_answers(5)
        writer = Producer({"bootstrap.servers": site.brokers, "transactional.id": uuid.uuid4().hex})
        writer.init_transactions(20)
        writer.begin_transaction()
        for number in range(2000):
            writer.produce(site.input, b'{"x": [%d, 0, 0]}' % number, b"k")
        writer.flush(20)
        site.put(5000, 10)
        where, began_s = Partition(site.input, 0), time.time()
        until(lambda: loop.owned()[where].unreadable >= 2010, WAIT_S)
        known = loop.owned()[where]
        assert known.lag == 0
        assert began_s - 30 < known.open_since_s < time.time()
        writer.abort_transaction(20)
        assert site.await_answers(15)[5:] == list(range(5000, 5010))
        until(lambda: loop.owned()[where].unreadable == 0, WAIT_S)


@pytest.mark.proof
def test_what_a_revoked_partition_had_is_no_lag(make: Callable[..., Site]) -> None:
    site = make(partitions=2)
    with site.worker(0) as first:
        read_from(first, 0)
        read_from(first, 1)
        with site.worker(1) as second:
            until(lambda: len(first.lag()) == len(second.lag()) == 1, WAIT_S)
            site.put(0, 30, 0)
            site.put(100, 30, 1)
            site.await_answers(60)
            until(lambda: [*first.lag().values(), *second.lag().values()] == [0, 0], WAIT_S)
            assert not set(first.lag()) & set(second.lag())
