"""Kafka's addresses and credentials as kafka-python wants them, and what its admin client tells of topics."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from kafka.admin import KafkaAdminClient  # type: ignore[import-untyped]

from consumers.stream.kafka.kafka_python.logins import keep_logins_unlogged
from consumers.stream.log.port import Partition
from consumers.stream.log.starts import SeenTopic
from consumers.stream.security import Security

LIMIT = "max.message.bytes"
DEFAULT_BROKERS = "127.0.0.1:9092"  # where neither the document nor the environment names any
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


def brokers_of_environment() -> str:
    """Those of documents that name none."""
    return os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or DEFAULT_BROKERS


def producer_limits(wait_s: float) -> dict[str, int]:
    """Keyword arguments of a producer that has given up each of its records after `wait_s`, wherever it hangs."""
    whole_ms, half_ms = round(1000 * wait_s), round(1000 * wait_s / 2)
    return {
        "bootstrap_timeout_ms": whole_ms,
        "max_block_ms": half_ms,
        "request_timeout_ms": half_ms,
        "delivery_timeout_ms": whole_ms,
    }


def topics_of(admin: KafkaAdminClient, names: Iterable[str]) -> dict[str, SeenTopic]:
    """Those of these topics that exist. Blocks; raises KafkaError."""
    return topics_in(admin.describe_topics(sorted(names)))


def topics_in(described: Iterable[Mapping[str, Any]]) -> dict[str, SeenTopic]:
    """The topics that exist, in what an admin client's `describe_topics` tells."""
    return {each["name"]: SeenTopic(str(each["topic_id"]), len(each["partitions"])) for each in described if each["partitions"]}


def leaderless_in(described: Iterable[Mapping[str, Any]]) -> set[Partition]:
    """The partitions that no broker leads just now."""
    return {Partition(each["name"], p["partition_index"]) for each in described for p in each["partitions"] if p["leader_id"] < 0}
