"""Passwords of a stream, given by the environment or a file, are used, and told to nobody: real Kafka with TLS and SASL."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer

from cluster.errors import Unreachable
from consumers.stream.kafka.clients import open_log
from consumers.stream.kafka.librdkafka.config import rdkafka_config
from consumers.stream.kafka.making_topics import ensure_topics
from consumers.stream.log.port import Member, Partition
from consumers.stream.security import Protocol, Security
from consumers.stream.spec import Client, StreamInput, StreamOutput, StreamSpec, Topic
from headrace.local.ports import free_port
from tests.support.secured_broker import USER, SecuredBroker, secured_broker
from tests.support.waiting import until

PASSWORD, KEY_PASSWORD = "hush-of-sasl", "hush-of-key"  # of a broker that lives as long as these tests
WRONG = "hush-wrong"
HUSH = "hush"
WAIT_S = 60.0
CLIENTS = [Client.KAFKA_PYTHON, Client.LIBRDKAFKA]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    with secured_broker(tmp_path_factory.mktemp("secured"), PASSWORD, KEY_PASSWORD) as broker:
        yield broker


Given = Callable[[str, str, str], Security]


@pytest.fixture
def given(secured: SecuredBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Given:
    """TLS and SASL as of such a place ("environment" or "file") of these two passwords."""

    def make(place: str, password: str, key_password: str) -> Security:
        told = {"password": password, "key_password": key_password}
        if place == "environment":
            for name, secret in told.items():
                monkeypatch.setenv(f"STREAM_{name}", secret)
            places = {f"{name}_env": f"STREAM_{name}" for name in told}
        else:
            for name, secret in told.items():
                (tmp_path / name).write_text(f"{secret}\n")
            places = {f"{name}_file": str(tmp_path / name) for name in told}
        return Security(
            protocol=Protocol.SASL_SSL,
            mechanism="PLAIN",
            username=USER,
            ca_file=str(secured.ca_file),
            cert_file=str(secured.cert_file),
            key_file=str(secured.key_file),
            **places,
        )

    return make


@dataclass
class Told:
    """All that is written while a test runs: every logger's records, debug included, and the process's own output."""

    logs: pytest.LogCaptureFixture
    output: pytest.CaptureFixture[str]

    def everything(self) -> str:
        streams = self.output.readouterr()
        return "\n".join([self.logs.text, *(repr(record.args) for record in self.logs.records), streams.out, streams.err])


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Told:
    caplog.set_level(logging.DEBUG)
    return Told(caplog, capfd)


def spec_of(client: Client, security: Security) -> StreamSpec:
    tag = client.value
    return StreamSpec(
        model="m",
        input=StreamInput(topic=f"in-{tag}", partitions=1),
        output=StreamOutput(topic=f"out-{tag}", partitions=1),
        dead_letters=Topic(topic=f"dead-{tag}", partitions=1),
        client=client,
        session_timeout_s=6,
        security=security,
    )


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_stream_logs_in_and_neither_password_is_told(
    secured: SecuredBroker, given: Given, told: Told, client: Client, place: str
) -> None:
    spec = spec_of(client, given(place, PASSWORD, KEY_PASSWORD))
    ensure_topics(spec, secured.address)
    log = open_log(spec, secured.address, Member("g", f"g-{client.value}", f"g-{client.value}"))
    try:
        first = Partition(spec.input.topic, 0)
        until(lambda: not log.poll(max_rows=1, timeout_s=0.1) and log.epoch(first) is not None, WAIT_S)
    finally:
        log.close()
    everything = told.everything()
    assert "SaslHandshakeRequest" in everything  # the client does log what it sends
    assert HUSH not in everything
    assert HUSH not in f"{spec!r} {spec} {spec.model_dump_json()} {log!r}"


def connect(client: Client, address: str, security: Security) -> None:
    if client is Client.KAFKA_PYTHON:
        ensure_topics(spec_of(client, security), address)
    else:  # a log would first be told of the failure by the other client, which looks at the topics
        Producer(rdkafka_config(address, security), logger=logging.getLogger("test")).list_topics(timeout=5)


WRONGS = {
    "no broker": ("file", PASSWORD, KEY_PASSWORD),
    "wrong password": ("environment", WRONG, KEY_PASSWORD),
    "wrong key password": ("file", PASSWORD, WRONG),
}


@pytest.mark.parametrize("wrong", WRONGS)
@pytest.mark.parametrize("client", [CLIENTS[1], pytest.param(CLIENTS[0], marks=pytest.mark.proof)])  # it tries for ten seconds
def test_what_fails_tells_neither_password(secured: SecuredBroker, given: Given, told: Told, client: Client, wrong: str) -> None:
    address = f"127.0.0.1:{free_port()}" if wrong == "no broker" else secured.address
    with pytest.raises((Unreachable, KafkaException)) as failed:
        connect(client, address, given(*WRONGS[wrong]))
    assert HUSH not in "".join(traceback.format_exception(failed.value)) + repr(failed.value)
    assert HUSH not in told.everything()
