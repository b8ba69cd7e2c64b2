"""Which Kafka client is used, and what it is told of TLS and SASL: secrets go to it and nowhere else."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from confluent_kafka import Message, Producer

from cluster.errors import BadInput
from consumers.stream.kafka.clients import chosen_client
from consumers.stream.kafka.kafka_python.client import client_config
from consumers.stream.kafka.librdkafka.batches import runs, send
from consumers.stream.kafka.librdkafka.config import rdkafka_config
from consumers.stream.log.port import Outgoing
from consumers.stream.security import Protocol, Security
from consumers.stream.spec import Client
from headrace.local.ports import free_port


def test_librdkafka_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_client(Client.AUTO) is Client.LIBRDKAFKA
    assert chosen_client(Client.KAFKA_PYTHON) is Client.KAFKA_PYTHON
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert chosen_client(Client.AUTO) is Client.KAFKA_PYTHON
    with pytest.raises(BadInput, match=r"headrace\[librdkafka\]"):
        chosen_client(Client.LIBRDKAFKA)


def security(folder: Path) -> Security:
    secret, key_secret = folder / "secret", folder / "key-secret"
    secret.write_text("hush-hush\n")
    key_secret.write_text("hush-key\n")
    return Security(
        protocol=Protocol.SASL_SSL,
        ca_file="/ca.pem",
        cert_file="/cert.pem",
        key_file="/key.pem",
        key_password_file=str(key_secret),
        mechanism="SCRAM-SHA-512",
        username="u",
        password_file=str(secret),
    )


def test_each_client_gets_tls_and_sasl_in_its_own_words(tmp_path: Path) -> None:
    given = security(tmp_path)
    assert client_config("a:1, b:2", given) == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "SASL_SSL",
        "ssl_cafile": "/ca.pem",
        "ssl_certfile": "/cert.pem",
        "ssl_keyfile": "/key.pem",
        "ssl_password": "hush-key",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "u",
        "sasl_plain_password": "hush-hush",
    }
    assert rdkafka_config("a:1,b:2", given) == {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": "/ca.pem",
        "ssl.certificate.location": "/cert.pem",
        "ssl.key.location": "/key.pem",
        "ssl.key.password": "hush-key",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "u",
        "sasl.password": "hush-hush",
    }


def test_a_configuration_that_is_shown_whole_hides_its_secrets(tmp_path: Path) -> None:
    given = security(tmp_path)
    shown = f"{client_config('a:1', given)} {rdkafka_config('a:1', given)}"
    assert "hush" not in shown
    assert shown.count("***") == 4


def test_a_secret_that_is_missing_is_named_and_none_is_in_the_document(tmp_path: Path) -> None:
    given = security(tmp_path)
    assert "hush" not in given.model_dump_json()
    (tmp_path / "binary").write_bytes(b"hush\xff")
    for missing in (
        given.model_copy(update={"password_file": "/nowhere"}),
        given.model_copy(update={"password_file": str(tmp_path / "binary")}),
        given.model_copy(update={"key_password_file": "/nowhere"}),
        Security(password_env="NOT_SET"),  # noqa: S106
    ):
        with pytest.raises(BadInput, match="password_"):
            client_config("a:1", missing)


def test_messages_are_told_apart_by_topic_and_partition() -> None:
    at = [("a", 0), ("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 0)]
    messages = [Message(topic=topic, partition=number, offset=offset) for offset, (topic, number) in enumerate(at)]
    told = [(run.topic, run.number, [message.offset() for message in found]) for run, found in runs(messages)]
    assert told == [("a", 0, [0, 1]), ("b", 0, [2]), ("b", 1, [3]), ("a", 1, [4]), ("a", 0, [5])]
    assert [(run.number, len(found)) for run, found in runs(messages[3:5])] == [(1, 1), (1, 1)]
    ones = [message for message in messages if message.topic() == "a"]
    assert list(runs(ones, "a")) == list(runs(ones))
    assert list(runs([])) == []


@pytest.mark.thorough
def test_a_full_queue_delays_records_and_drops_or_doubles_none() -> None:
    left: list[bytes | None] = []
    producer = Producer(
        {
            "bootstrap.servers": f"127.0.0.1:{free_port()}",  # nobody is there: a record leaves the queue as its time is over
            "queue.buffering.max.messages": 4,
            "message.timeout.ms": 50,
            "on_delivery": lambda _, message: left.append(message.value()),
            "log_level": 0,
        }
    )
    values = [b"%d" % number for number in range(10)]
    headers = [[("name", b"value")], [], *[[("name", None)]] * 8]
    send(producer, [Outgoing("t", 0, [None] * 10, values, headers, [1] * 10), Outgoing("t", 0, [], [], [], [])])
    producer.flush(10)
    assert left == values
