"""A stream's topics, made where they are missing."""

from __future__ import annotations

from typing import Any

from kafka.admin import KafkaAdminClient  # type: ignore[import-untyped]
from kafka.errors import TopicAlreadyExistsError  # type: ignore[import-untyped]

from consumers.stream.kafka.admin import Admin
from consumers.stream.kafka.broker_errors import asker_of, broker_error
from consumers.stream.kafka.kafka_python.client import LIMIT, ROOM_BYTES
from consumers.stream.spec import StreamSpec


def ensure_topics(spec: StreamSpec, brokers: str) -> None:
    """As `make_topics`, through a connection of its own."""
    admin = Admin(brokers, spec.security, asker_of(spec))
    try:
        make_topics(spec, admin)
    finally:
        admin.close()


def make_topics(spec: StreamSpec, admin: Admin) -> None:
    """Makes the stream's topics that are missing, with their declared partitions. Those that are there stay as they are.

    Raises Unreachable, and BadInput where the broker does not take one as it is declared.
    """
    others = (spec.output, spec.dead_letters, *([spec.labels] if spec.labels is not None else []))
    wanted = dict.fromkeys(spec.input.names, spec.input.partitions) | {topic.topic: topic.partitions for topic in others}
    # A dead letter is its input record with more headers, so it must be allowed to be larger.
    configs = {LIMIT: str(spec.max_record_bytes + ROOM_BYTES)}
    with admin.asking(broker_error) as client:
        present = set(client.list_topics())
        for name, count in wanted.items():
            if name not in present:
                _make(client, name, {"num_partitions": count, "configs": configs})


def _make(client: KafkaAdminClient, name: str, options: dict[str, Any]) -> None:
    try:
        client.create_topics({name: options}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        return  # another member made it a moment ago
