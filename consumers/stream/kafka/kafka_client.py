"""Kafka's addresses and credentials as kafka-python wants them, and topics made where they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka.admin import ConfigResource, KafkaAdminClient  # type: ignore[import-untyped]
from kafka.errors import KafkaError, TopicAlreadyExistsError  # type: ignore[import-untyped]

from consumers.stream.kafka.broker_errors import asker_of, broker_error, unreachable
from consumers.stream.kafka.kafka_inside import keep_logins_unlogged
from consumers.stream.spec import Security, StreamSpec

LIMIT = "max.message.bytes"
DEFAULT_BROKERS = "127.0.0.1:9092"  # where neither the document nor the environment names any
BATCH_BYTES = 100
ROOM_BYTES = 64 * 1024  # for the headers that a record gains on its way


def client_config(brokers: str, security: Security) -> dict[str, Any]:
    """Keyword arguments that every kafka-python client takes. Raises BadInput where a secret can't be read."""
    if security.mechanism is not None:
        keep_logins_unlogged()
    config: dict[str, Any] = {
        "bootstrap_servers": [address.strip() for address in brokers.split(",")],
        "security_protocol": security.protocol.value,
    }
    given = {
        "ssl_cafile": security.ca_file,
        "ssl_certfile": security.cert_file,
        "ssl_keyfile": security.key_file,
        "ssl_password": security.key_password(),
        "sasl_mechanism": security.mechanism,
        "sasl_plain_username": security.username,
        "sasl_plain_password": security.password(),
    }
    return config | {name: value for name, value in given.items() if value is not None}


def ensure_topics(spec: StreamSpec, brokers: str) -> None:
    """Makes the stream's topics that are missing, with their declared partitions. Those that are there stay as they are.

    Raises Unreachable, and BadInput where the broker does not take one as it is declared.
    """
    written = (spec.output, spec.dead_letters)
    wanted = dict.fromkeys(spec.input.names, spec.input.partitions) | {topic.topic: topic.partitions for topic in written}
    try:
        _create(brokers, spec.security, wanted, spec.max_record_bytes)
    except KafkaError as error:
        raise broker_error(brokers, error, asker_of(spec)) from error


def _create(brokers: str, security: Security, wanted: Mapping[str, int], max_record_bytes: int) -> None:
    # A dead letter is its input record with more headers, so it must be allowed to be larger.
    configs = {LIMIT: str(max_record_bytes + ROOM_BYTES)}
    admin = KafkaAdminClient(**client_config(brokers, security), bootstrap_timeout_ms=10_000)
    try:
        present = set(admin.list_topics())
        for name, count in wanted.items():
            if name not in present:
                _create_one(admin, name, {"num_partitions": count, "configs": configs})
    finally:
        admin.close()


def _create_one(admin: KafkaAdminClient, name: str, options: dict[str, Any]) -> None:
    try:
        admin.create_topics({name: options}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        return  # another member made it a moment ago


def record_limits(spec: StreamSpec, brokers: str) -> dict[str, int]:
    """What one record of the output and of the dead letters may take, in bytes, by topic: what our producer lets through, or less
    where the topic takes less.

    Raises Unreachable.
    """
    topics = (spec.output.topic, spec.dead_letters.topic)
    try:
        admin = KafkaAdminClient(**client_config(brokers, spec.security), bootstrap_timeout_ms=10_000)
    except KafkaError as error:
        raise unreachable(brokers, error, asker_of(spec)) from error
    try:
        asked = [ConfigResource("topic", topic, [LIMIT]) for topic in topics]
        told = admin.describe_configs(asked, config_filter="all").get("topic", {})
    except KafkaError as error:
        raise unreachable(brokers, error, asker_of(spec)) from error
    finally:
        admin.close()
    ours = spec.max_record_bytes + ROOM_BYTES
    limits = {topic: told.get(topic, {}).get(LIMIT, {}).get("value") for topic in topics}
    # The broker counts the batch that a record travels in, with its own header; or it won't say.
    return {topic: ours if limit is None else min(int(limit) - BATCH_BYTES, ours) for topic, limit in limits.items()}


class RecordLimits:
    """`record_limits` as last asked. Raises Unreachable where they are asked: when made, and by `renew` after a refusal."""

    def __init__(self, spec: StreamSpec, brokers: str) -> None:
        self._spec, self._brokers = spec, brokers
        self._largest = record_limits(spec, brokers)
        self._refused = False

    def of(self, topic: str) -> int:
        """What one record of the topic may take, in bytes."""
        return self._largest[topic]

    @property
    def smallest(self) -> int:
        """Of all the topics that the stream writes."""
        return min(self._largest.values())

    def refuse(self) -> None:
        """A topic did not take what it should: it takes less by now than when it was asked. From any thread."""
        self._refused = True

    def renew(self) -> None:
        """Asks again where something was refused."""
        if self._refused:
            self._largest = record_limits(self._spec, self._brokers)
            self._refused = False
