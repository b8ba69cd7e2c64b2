"""A trace goes through real Kafka: from a producer's header to the header of the answer, with either client."""

from __future__ import annotations

from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from consumers.stream.kafka.clients import open_log
from consumers.stream.log.port import Header, Member
from consumers.stream.spec import Client, Format, StreamInput, StreamOutput
from tests.support.models import rows
from tests.support.stream_topics import small_stream
from tests.support.trace_receiver import receiving
from tests.support.traced_stream import check_traces, sent_headers, traced_loop

COUNT = 6


@pytest.mark.proof
@pytest.mark.parametrize("client", [Client.KAFKA_PYTHON, Client.LIBRDKAFKA])
def test_a_record_and_its_answer_are_of_one_trace(broker: str, client: Client, tmp_path: Path) -> None:
    made = small_stream(broker, client, 1)
    topics = {
        "input": StreamInput(topic=made.input.topic, partitions=1, format=Format.RAW),
        "output": StreamOutput(topic=made.output.topic, partitions=1, format=Format.RAW),
    }
    spec = made.model_copy(update={"model": "digits", **topics})
    sent, traces = sent_headers(COUNT)
    producer = KafkaProducer(bootstrap_servers=broker, linger_ms=200)
    for number, headers in enumerate(sent):
        producer.send(
            spec.input.topic, rows(1, seed=number).tobytes(), b"k", headers=[(name, value or b"") for name, value in headers]
        )
    producer.close()
    group = spec.group_of("s")
    with receiving() as receiver:
        with traced_loop(spec, lambda: open_log(spec, broker, Member(group, f"{group}-0", f"{group}-0")), receiver, tmp_path):
            answered = read(broker, spec.output.topic)
        check_traces(receiver, traces, sent, answered, spec)


def read(broker: str, topic: str) -> dict[int, list[Header]]:
    """The headers of the answers, by their numbers."""
    reader = KafkaConsumer(bootstrap_servers=broker, isolation_level="read_committed", auto_offset_reset="earliest")
    try:
        reader.assign([TopicPartition(topic, 0)])
        found: dict[int, list[Header]] = {}
        while len(found) < COUNT:  # the test's own limit ends it
            for records in reader.poll(timeout_ms=200).values():
                found |= {int(dict(record.headers)["n"]): list(record.headers) for record in records}
        return found
    finally:
        reader.close()
