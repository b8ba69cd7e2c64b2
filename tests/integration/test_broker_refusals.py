"""What a real broker refuses is told with its reason, by either client.

No room for transactions, limits of the broker, another consumer in the group, missing rights.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from kafka import KafkaConsumer
from kafka.admin import ACL, ACLFilter, ACLOperation, ACLPermissionType, KafkaAdminClient, ResourcePattern, ResourceType
from kafka.coordinator.assignors.range import RangePartitionAssignor

from cluster.errors import BadInput, Conflict, Unreachable
from consumers.stream.kafka.clients import open_log
from consumers.stream.kafka.kafka_python import reader as kafka_reader
from consumers.stream.kafka.kafka_python import writer as kafka_writer
from consumers.stream.kafka.librdkafka import writer as rdkafka_writer
from consumers.stream.kafka.making_topics import ensure_topics
from consumers.stream.kafka.offsets import offset_ranges, set_group
from consumers.stream.log.port import Member, Partition
from consumers.stream.loop import Loop
from consumers.stream.phases import WorkerPhase
from consumers.stream.security import Protocol, Security
from consumers.stream.spec import Client, Guarantee, StreamSpec, Topic
from tests.support.secured_broker import USER, SecuredBroker, secured_broker
from tests.support.stream_parts import SumScoring
from tests.support.stream_topics import WAIT_S, small_stream
from tests.support.waiting import until

PASSWORD, KEY_PASSWORD = "of-sasl", "of-key"  # of a broker that lives as long as these tests
# Rights are asked for only where some are set; who comes without a password may do everything.
SETTINGS = (
    "transaction.state.log.replication.factor=3",
    "transaction.max.timeout.ms=20000",
    "group.max.session.timeout.ms=20000",
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users=User:ANONYMOUS",
    "allow.everyone.if.no.acl.found=true",
)
CLIENTS = [Client.KAFKA_PYTHON, Client.LIBRDKAFKA]
pytestmark = [pytest.mark.proof, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Strict:
    """A broker with narrow limits, which can be reached with and without a password, and its administrator."""

    broker: SecuredBroker
    security: Security
    admin: KafkaAdminClient

    @property
    def address(self) -> str:
        return self.broker.plain_address

    def deny(self, kind: ResourceType, name: str, what: ACLOperation = ACLOperation.ALL) -> None:
        """From now on the user with the password may not do that."""
        self.admin.create_acls([ACL(f"User:{USER}", "*", what, ACLPermissionType.DENY, ResourcePattern(kind, name))])

    def open_again(self, kind: ResourceType, name: str) -> None:
        """Nothing is denied there any more."""
        self.admin.delete_acls([ACLFilter(None, None, ACLOperation.ANY, ACLPermissionType.ANY, ResourcePattern(kind, name))])


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    folder = tmp_path_factory.mktemp("strict")
    with secured_broker(folder, PASSWORD, KEY_PASSWORD, *SETTINGS) as broker:
        (folder / "password").write_text(PASSWORD)
        (folder / "key-password").write_text(KEY_PASSWORD)
        security = Security(
            protocol=Protocol.SASL_SSL,
            mechanism="PLAIN",
            username=USER,
            password_file=str(folder / "password"),
            key_password_file=str(folder / "key-password"),
            ca_file=str(broker.ca_file),
            cert_file=str(broker.cert_file),
            key_file=str(broker.key_file),
        )
        admin = KafkaAdminClient(bootstrap_servers=broker.plain_address)
        try:
            yield Strict(broker, security, admin)
        finally:
            admin.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kafka_reader, kafka_writer, rdkafka_writer):
        monkeypatch.setattr(module, "CALL_TIMEOUT_S", 2.0)


def refusal(spec: StreamSpec, address: str) -> Unreachable:
    """What the stream's log raises where it is opened, or polled."""
    group = spec.group_of("s")
    try:
        log = open_log(spec, address, Member(group, f"{group}-0", f"{group}-0"))
    except Unreachable as error:
        return error
    try:
        with pytest.raises(Unreachable) as failed:
            until(lambda: bool(log.poll(max_rows=1, timeout_s=0.2)), WAIT_S)
    finally:
        log.close()
    return failed.value


def test_a_broker_without_room_for_transactions_and_then_with_little_time_for_them(strict: Strict) -> None:
    for client in CLIENTS:
        spec = small_stream(strict.address, client, 1, transaction_timeout_s=10)
        assert "transaction.state.log.replication.factor" in refusal(spec, strict.address).remedy
    strict.admin.create_topics({"__transaction_state": {"num_partitions": 8, "replication_factor": 1}})
    for client in CLIENTS:
        # The topic may be there before those who keep it.
        spec = small_stream(strict.address, client, 1, transaction_timeout_s=30)
        until(lambda spec=spec: "transaction.max.timeout.ms" in refusal(spec, strict.address).remedy, WAIT_S)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_session_longer_than_the_broker_allows(strict: Strict, client: Client) -> None:
    spec = small_stream(strict.address, client, 1, session_timeout_s=30, guarantee=Guarantee.AT_LEAST_ONCE)
    assert "group.max.session.timeout.ms" in refusal(spec, strict.address).remedy


@pytest.fixture
def stranger(broker: str) -> Iterator[StreamSpec]:
    """A stream in whose group a consumer is that shares partitions out another way."""
    spec = small_stream(broker, Client.AUTO, 1, guarantee=Guarantee.AT_LEAST_ONCE)
    consumer = KafkaConsumer(
        spec.input.topic,
        bootstrap_servers=broker,
        group_id=spec.group,
        client_id="old-reader",
        partition_assignment_strategy=[RangePartitionAssignor],
    )
    try:
        until(lambda: bool(consumer.poll(timeout_ms=100) or consumer.assignment()), WAIT_S)
        yield spec
    finally:
        consumer.close()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_group_that_another_consumer_uses(broker: str, stranger: StreamSpec, client: Client) -> None:
    told = refusal(stranger.model_copy(update={"client": client}), broker)
    assert f"the group {stranger.group} has a member that shares partitions out another way" in told.what
    assert told.remedy == "stop that consumer, or choose another spec.group"


def test_a_group_that_another_consumer_uses_is_not_moved_and_it_is_named(broker: str, stranger: StreamSpec) -> None:
    stretch = offset_ranges(stranger, broker)
    began_s = time.monotonic()
    with pytest.raises(Conflict, match=r"in use by another consumer: old-reader at 127\.0\.0\.1"):
        set_group(stranger.group_of("s"), stretch.starts, broker, stranger.security, timeout_s=60)
    assert time.monotonic() - began_s < 30  # it can't come to pass, so nobody waits for it


def test_a_broker_that_says_nothing_is_given_up_in_time(broker: str) -> None:
    spec = small_stream(broker, Client.AUTO, 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        for ask in (
            lambda: offset_ranges(spec, address, timeout_s=0.5),
            lambda: set_group("g", {}, address, spec.security, timeout_s=0.5),
        ):
            began_s = time.monotonic()
            with pytest.raises(Unreachable, match="check that the broker runs"):
                ask()
            assert time.monotonic() - began_s < 10


def test_a_broker_that_stands_still_meanwhile_is_given_up_in_time(strict: Strict) -> None:
    spec = small_stream(strict.address, Client.KAFKA_PYTHON, 1, guarantee=Guarantee.AT_LEAST_ONCE)
    group, first = str(spec.group), Partition(spec.input.topic, 0)
    log = open_log(spec, strict.address, Member(group, f"{group}-0", f"{group}-0"))
    freeze = threading.Timer(1.5, os.kill, (strict.broker.pid, signal.SIGSTOP))  # while it waits for the member to go
    try:
        until(lambda: not log.poll(max_rows=1, timeout_s=0.2) and log.epoch(first) is not None, WAIT_S)
        began_s = time.monotonic()
        freeze.start()
        with pytest.raises(Unreachable, match="check that the broker runs"):
            set_group(group, {first: 0}, strict.address, spec.security, timeout_s=4)
        assert time.monotonic() - began_s < 7
    finally:
        freeze.join()
        os.kill(strict.broker.pid, signal.SIGCONT)
        log.close()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_missing_right_is_named_with_what_it_is_to(strict: Strict, client: Client) -> None:
    once = small_stream(strict.address, client, 1, transaction_timeout_s=10).model_copy(update={"security": strict.security})
    strict.deny(ResourceType.TRANSACTIONAL_ID, f"{once.group}-0")
    told = refusal(once, strict.broker.address)
    assert f"no right to the transactional id {once.group}-0" in told.what
    assert "WRITE and DESCRIBE" in told.remedy

    spec = small_stream(strict.address, client, 1, guarantee=Guarantee.AT_LEAST_ONCE)
    spec = spec.model_copy(update={"security": strict.security})
    strict.deny(ResourceType.GROUP, str(spec.group))
    told = refusal(spec, strict.broker.address)
    assert f"no right to the group {spec.group}" in told.what
    assert "READ" in told.remedy


def unreadable(strict: Strict, client: Client) -> StreamSpec:
    """A stream that may not read its input."""
    spec = small_stream(strict.address, client, 1, guarantee=Guarantee.AT_LEAST_ONCE)
    strict.deny(ResourceType.TOPIC, spec.input.topic, ACLOperation.READ)
    return spec.model_copy(update={"security": strict.security})


@pytest.mark.parametrize("client", CLIENTS)
def test_a_topic_that_may_not_be_read(strict: Strict, client: Client) -> None:
    told = refusal(unreadable(strict, client), strict.broker.address)
    assert "no right to one of the stream's topics" in told.what
    assert "READ the input" in told.remedy


def test_a_topic_that_may_be_read_again_is_read(strict: Strict) -> None:
    spec = unreadable(strict, Client.KAFKA_PYTHON)  # librdkafka looks by itself, every half minute
    log = open_log(spec, strict.broker.address, Member(str(spec.group), f"{spec.group}-0", f"{spec.group}-0"))
    try:
        with pytest.raises(Unreachable, match="no right"):
            until(lambda: bool(log.poll(max_rows=1, timeout_s=0.2)), WAIT_S)
        strict.open_again(ResourceType.TOPIC, spec.input.topic)
        first = Partition(spec.input.topic, 0)
        until(lambda: not log.poll(max_rows=1, timeout_s=0.2) and log.epoch(first) is not None, WAIT_S, trouble=(Unreachable,))
    finally:
        log.close()


def test_a_worker_that_may_not_read_its_topic_recovers_all_the_time(strict: Strict) -> None:
    spec, seen = unreadable(strict, Client.KAFKA_PYTHON), list[WorkerPhase]()  # librdkafka says so every few minutes
    member = Member(str(spec.group), f"{spec.group}-0", f"{spec.group}-0")
    loop = Loop("s", spec, SumScoring(), lambda: open_log(spec, strict.broker.address, member))
    worker = threading.Thread(target=loop.run)
    worker.start()
    try:
        until(lambda: loop.phase is WorkerPhase.RECOVERING, WAIT_S)

        def looked_often_enough() -> bool:
            seen.append(loop.phase)
            return loop.counters.recoveries >= 5

        until(looked_often_enough, WAIT_S, every_s=0.005)
        assert "no right to one of the stream's topics" in loop.message
    finally:
        loop.stop()
        worker.join(WAIT_S)
    assert WorkerPhase.RUNNING not in seen


def test_a_right_to_make_topics_that_is_missing(strict: Strict) -> None:
    spec = small_stream(strict.address, Client.AUTO, 1)
    missing = f"dead-{uuid.uuid4().hex[:8]}"
    spec = spec.model_copy(update={"dead_letters": Topic(topic=missing, partitions=1), "security": strict.security})
    denied = [(ResourceType.TOPIC, missing), (ResourceType.CLUSTER, "kafka-cluster")]
    for kind, name in denied:
        strict.deny(kind, name, ACLOperation.CREATE)
    try:
        with pytest.raises(Unreachable, match="no right to one of the stream's topics") as failed:
            ensure_topics(spec, strict.broker.address)
    finally:
        strict.open_again(*denied[1])
    assert missing in failed.value.what
    assert "CREATE" in failed.value.remedy


def test_a_topic_that_the_broker_does_not_take_as_it_is_declared(broker: str) -> None:
    spec = small_stream(broker, Client.AUTO, 1)
    many = spec.model_copy(
        update={"dead_letters": Topic(topic=f"dead-{uuid.uuid4().hex[:8]}", partitions=1), "max_record_bytes": 2**31}
    )
    with pytest.raises(BadInput, match=r"max\.message\.bytes"):
        ensure_topics(many, broker)
