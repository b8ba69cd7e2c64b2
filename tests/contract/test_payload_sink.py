"""What all places for payloads promise: in memory, as real files, and on a real broker."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from kafka import KafkaConsumer
from kafka.admin import KafkaAdminClient, NewTopic

from cluster.errors import NotFound, Unreachable
from cluster.signature import Datatype, Signature, TensorSpec
from cluster.watch.payloads import PayloadFiles, PayloadForm, PayloadTopic
from consumers.stream.payloads.recorded_topic import recorded_topic
from consumers.stream.payloads.topic_sink import TopicPayloads
from deployments.observe.payloads.parquet_files import ParquetPayloads
from deployments.observe.payloads.sink import PayloadSink
from headrace.local.ports import free_port
from tests.support.payloads import MemorySink, payload_event

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 3)),),
    outputs=(TensorSpec(name="sum", datatype=Datatype.FP32, shape=(-1,)),),
)


@dataclass(frozen=True)
class Place:
    """A sink and a way to see which ids it holds, one entry an event."""

    sink: PayloadSink
    ids: Callable[[], list[str]]


def made_topic(broker: str) -> str:
    name = f"payloads-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=broker)
    try:
        admin.create_topics([NewTopic(name, 3, 1)])
    finally:
        admin.close()
    return name


def records_of(broker: str, topic: str) -> list[tuple[str, dict[str, str], dict[str, object], int]]:
    """Key, headers, body and partition of each."""
    reader = KafkaConsumer(
        topic, bootstrap_servers=broker, auto_offset_reset="earliest", enable_auto_commit=False, consumer_timeout_ms=1500
    )
    try:
        return [
            (one.key.decode(), {name: value.decode() for name, value in one.headers}, orjson.loads(one.value), one.partition)
            for one in reader
        ]
    finally:
        reader.close()


def ids_in(folder: Path) -> list[str]:
    tables = [pq.read_table(file) for file in folder.rglob("*.parquet")]
    return [one for table in tables for one, row in zip(*(table[f"headrace_{n}"].to_pylist() for n in ("id", "row"))) if row == 0]  # noqa: B905


@pytest.fixture(params=["memory", "parquet", "event", "kserve"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "memory":
        memory = MemorySink()
        yield Place(memory, lambda: [event.id for event in memory.events])
        return
    if request.param == "parquet":
        yield Place(ParquetPayloads(PayloadFiles(path=str(tmp_path))), lambda: ids_in(tmp_path))
        return
    broker = request.getfixturevalue("broker")
    topic, form = made_topic(broker), PayloadForm(request.param)
    sink = TopicPayloads(PayloadTopic(topic=topic, brokers=broker, form=form))

    def ids() -> list[str]:
        found = records_of(broker, topic)
        if form is PayloadForm.KSERVE:
            pairs = {key: [r[1]["ce_type"].rsplit(".", 1)[1] for r in found if r[0] == key] for key, *_ in found}
            assert all(pair == ["request", "response"] for pair in pairs.values())
            return list(pairs)
        return [key for key, *_ in found]

    yield Place(sink, ids)
    sink.close()


def test_what_is_told_as_kept_is_there_once(place: Place) -> None:
    result = place.sink.write([payload_event(n, failed=n == 2) for n in range(5)])
    assert (result.kept, result.error) == (5, None)
    assert place.sink.write([payload_event(5, version=4)]).kept == 1
    place.sink.close()
    assert sorted(place.ids()) == [f"in/0/{n}" for n in range(6)]


def test_kserve_pairs_are_what_its_readers_expect(broker: str) -> None:
    topic = made_topic(broker)
    sink = TopicPayloads(PayloadTopic(topic=topic, brokers=broker, form=PayloadForm.KSERVE))
    assert sink.write([payload_event(4)]).kept == 1
    sink.close()
    (_, asked, request, at), (_, answered, response, beside) = records_of(broker, topic)
    assert at == beside
    assert asked["ce_type"] == "org.kubeflow.serving.inference.request"
    assert answered["ce_type"] == "org.kubeflow.serving.inference.response"
    assert asked["ce_id"] == answered["ce_id"] == "in/0/4"
    assert {"ce_source", "ce_time", "ce_inferenceservicename", "ce_namespace", "ce_component", "ce_endpoint"} < set(asked)
    assert (asked["ce_specversion"], asked["ce_sampledrate"], asked["content-type"]) == ("1.0", "100", "application/json")
    assert request["inputs"] == [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [4.0] * 6}]
    assert response["outputs"] == [{"name": "sum", "shape": [2], "datatype": "FP32", "data": [12.0, 12.0]}]
    assert (response["model_name"], response["model_version"]) == ("digits", "3")


@pytest.mark.parametrize("form", list(PayloadForm))
def test_a_topic_is_read_back_by_time_over_its_partitions(broker: str, form: PayloadForm) -> None:
    topic = PayloadTopic(topic=made_topic(broker), brokers=broker, form=form)
    sink = TopicPayloads(topic)
    events = [replace(payload_event(n, failed=n == 7), at_s=1_700_000_000 + n) for n in range(50)]
    assert sink.write(events).kept == 50
    sink.close()
    found = list(recorded_topic(topic, "digits", SIGNATURE))
    assert [one.inputs["x"][0, 0] for one in found] == list(range(50))
    assert [one.outcome for one in found] == [event.outcome for event in events]
    assert found[3].outputs["sum"].tolist() == [9.0, 9.0]


def test_a_topic_that_is_not_there_is_told(broker: str) -> None:
    with pytest.raises(NotFound, match="no such topic"):
        next(recorded_topic(PayloadTopic(topic="never-made", brokers=broker), "digits", SIGNATURE))
    assert not list(recorded_topic(PayloadTopic(topic=made_topic(broker), brokers=broker), "digits", SIGNATURE))


def test_a_broker_away_is_told_without_values_and_costs_seconds() -> None:
    sink = TopicPayloads(PayloadTopic(topic="t", brokers=f"127.0.0.1:{free_port()}"))
    results = []
    writing = threading.Thread(target=lambda: results.append(sink.write([payload_event(31337)])))
    writing.start()
    writing.join(45)
    assert not writing.is_alive()
    assert results[0].kept == 0
    assert isinstance(results[0].error, Unreachable)
    assert "31337" not in str(results[0].error)
    sink.close()
