"""Late labels from a real topic: each counts once, whatever ends in between."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import orjson
import pytest
from kafka import KafkaProducer

from consumers.stream.labels.reader import LabelReader
from consumers.stream.spec import Client, LabelTopic, StreamSpec
from deployments.control.fake_control import FakeControlPlane
from deployments.serving.fake_fleet import FakeFleet
from tests.support.brain import SIGNATURE
from tests.support.broker_admin import administered
from tests.support.stream_topics import HostileName, small_stream
from tests.support.waiting import until

WAIT_S = 60.0


@pytest.fixture
def control() -> FakeControlPlane:
    """Version 1 of `m` is there, and its document wants labels."""
    control = FakeControlPlane(FakeFleet())
    made = {"artifact_uri": "file:///1", "digest": "one", "engine": "onnx", "signature": SIGNATURE}
    control.controller.call("version.register", {"model": "m", **made})
    control.controller.call("apply", {"models": [{"name": "m", "labels": {"output": "output"}}]})
    return control


@pytest.fixture
def spec(broker: str) -> StreamSpec:
    return small_stream(broker, Client.KAFKA_PYTHON, 1, labels=LabelTopic(topic=f"truth-{uuid.uuid4().hex[:8]}", partitions=2))


@pytest.fixture
def producer(broker: str) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(bootstrap_servers=broker)
    yield producer
    producer.close()


def labels_topic(spec: StreamSpec) -> LabelTopic:
    assert spec.labels is not None
    return spec.labels


def publish(producer: KafkaProducer, spec: StreamSpec, first: int, count: int, *, label: object = 7) -> None:
    when = int(time.time())
    for number in range(first, first + count):
        value = orjson.dumps({"key": f"0/1/7@{when}/in/0/{number}", "label": label})
        producer.send(labels_topic(spec).topic, value, partition=number % 2)
    producer.flush()


def counted(control: FakeControlPlane) -> int:
    versions = control.controller.call("quality.show", {"model": "m"})["versions"]
    return sum(one["labelled"] for one in versions)


def faults(control: FakeControlPlane) -> dict[str, int]:
    found: dict[str, int] = control.controller.call("quality.show", {"model": "m"})["faults"]
    return found


def reader_of(control: FakeControlPlane, spec: StreamSpec, broker: str) -> LabelReader:
    reader = LabelReader("s", spec, labels_topic(spec), broker, control)
    reader.start()
    return reader


@pytest.mark.proof
def test_each_record_counts_once_whatever_ends(
    broker: str, spec: StreamSpec, control: FakeControlPlane, producer: KafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(producer, spec, 0, 100)
    with monkeypatch.context() as never:
        # It ends after each time it has told labels, and before it commits.
        never.setattr("kafka.KafkaConsumer.commit", _raise)
        reader = reader_of(control, spec, broker)
        until(lambda: "worked out" in reader.trouble and counted(control) == 100, WAIT_S)
        reader.stop()
    publish(producer, spec, 100, 50)
    publish(producer, spec, 20, 10)  # ten told again, by other records
    producer.send(labels_topic(spec).topic, b"nonsense", partition=0)
    producer.send(labels_topic(spec).topic, None, key=b"k", partition=1)
    publish(producer, spec, 900, 1, label="cat")
    reader = reader_of(control, spec, broker)
    until(lambda: counted(control) == 150 and faults(control).get("wrong_type") == 1, WAIT_S)
    until(lambda: faults(control).get("unreadable") == 2 and faults(control).get("twice") == 10, WAIT_S)
    assert reader.trouble == ""
    control.away = True
    publish(producer, spec, 200, 10)
    until(lambda: "the controller is away" in reader.trouble, WAIT_S)
    control.away = False
    until(lambda: counted(control) == 160 and not reader.trouble, WAIT_S)
    reader.stop()


@pytest.mark.proof
def test_a_topic_that_is_made_anew_is_read_from_its_beginning(
    broker: str, spec: StreamSpec, control: FakeControlPlane, producer: KafkaProducer
) -> None:
    publish(producer, spec, 0, 40)
    reader = reader_of(control, spec, broker)
    until(lambda: counted(control) == 40, WAIT_S)
    reader.stop()
    topic = labels_topic(spec).topic
    with administered(broker) as admin:
        admin.delete_topics([topic])
        until(lambda: topic not in admin.list_topics(), WAIT_S)
    reader = reader_of(control, spec, broker)
    until(lambda: "there is no such topic" in reader.trouble, WAIT_S)
    with administered(broker) as admin:
        admin.create_topics({topic: {"num_partitions": 2}}, wait_for_metadata=True)
    publish(producer, spec, 40, 10)  # offsets that the old topic had, too
    until(lambda: counted(control) == 50 and not reader.trouble, WAIT_S)
    reader.stop()
    assert faults(control) == {}


def _raise(*_: object, **__: object) -> None:
    from kafka.errors import CommitFailedError

    raise CommitFailedError("worked out")


def test_a_record_that_the_client_cannot_read_holds_none_behind_it(
    broker: str, spec: StreamSpec, control: FakeControlPlane, producer: KafkaProducer
) -> None:
    publish(producer, spec, 0, 4)
    producer.send(labels_topic(spec).topic, b"{}", partition=0, headers=[(HostileName("x"), b"x")]).get(WAIT_S)
    publish(producer, spec, 4, 4)
    reader = reader_of(control, spec, broker)
    until(lambda: counted(control) == 8, WAIT_S)
    until(lambda: faults(control) == {"unreadable": 1}, WAIT_S)
    assert reader.trouble == ""
    reader.stop()
    publish(producer, spec, 8, 4)
    again = reader_of(control, spec, broker)
    until(lambda: counted(control) == 12, WAIT_S)
    again.stop()
    assert faults(control) == {"unreadable": 1}
