"""The local broker: starts, keeps its data over a restart, and says clearly why it can't start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from cluster.errors import Conflict
from headrace.local.broker import running_broker, start_broker, stop_broker
from headrace.local.ports import free_port
from tests.support.broker import jar_cache


def test_keeps_its_data_over_a_restart(tmp_path: Path) -> None:
    port = free_port()
    try:
        first = start_broker(tmp_path, port=port, cache=jar_cache())
        assert start_broker(tmp_path, port=port, cache=jar_cache()) == first
        admin = KafkaAdminClient(bootstrap_servers=first.bootstrap)
        admin.create_topics([NewTopic("kept", 1, 1)])
        admin.close()
        producer = KafkaProducer(bootstrap_servers=first.bootstrap)
        producer.send("kept", b"value").get(20)
        producer.close()
        assert stop_broker(tmp_path)
        assert running_broker(tmp_path) is None
        assert not stop_broker(tmp_path)

        second = start_broker(tmp_path, port=port, cache=jar_cache())
        consumer = KafkaConsumer(
            "kept", bootstrap_servers=second.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=20_000
        )
        assert next(iter(consumer)).value == b"value"
        consumer.close()
    finally:
        stop_broker(tmp_path)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port} is in use"):
            start_broker(tmp_path, port=port, cache=jar_cache())
    assert running_broker(tmp_path) is None
