"""A data subject is erased while streams run: real Kafka, Serve, controller and gateway, by the commands that a user has."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pytest
import yaml
from kafka import KafkaProducer

from consumers.stream.sealed.book import FRESH_S
from deployments.privacy.fields import owner_of
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from headrace.local.home import read_settings
from headrace.local.home_key import home_key
from headrace.opening import FieldOpener, FieldState
from tests.conftest import RayCluster
from tests.support.live import Service, running
from tests.support.models import doubling_artifact
from tests.support.node_keys import node_keys
from tests.support.stream_topics import WAIT_S, read_records
from tests.support.waiting import until

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]
MODEL = "forgetting"
SEALING, OPENING = f"{MODEL}-sealing", f"{MODEL}-opening"
ADA, BOB = (f"{name}-{uuid.uuid4().hex}@example.org" for name in ("ada", "bob"))


@dataclass
class Chain:
    """`in` -> what is doubled, encrypted for its subject -> what is doubled again, in clear. The topics of both streams."""

    service: Service
    broker: str
    tag: str

    def topic(self, name: str) -> str:
        return f"{name}-{self.tag}"

    def send(self, topic: str, values: Sequence[tuple[str, bytes]]) -> None:
        producer = KafkaProducer(bootstrap_servers=self.broker)
        for key, value in values:
            producer.send(self.topic(topic), value, key.encode(), partition=0)
        producer.close()

    def read(self, topic: str, key: str) -> list[Any]:
        """What is in the topic of that subject, as the client has it."""
        return [record for record in read_records(self.broker, self.topic(topic)) if record.key == key.encode()]


def headrace(*words: str) -> None:
    assert main(list(words)) == ExitCode.OK, words


def row(*numbers: float) -> bytes:
    return orjson.dumps({"x": numbers})


def reason(letter: Any) -> str:
    return str(dict(letter.headers)["__connect.errors.exception.message"].decode())


def documents(chain: Chain) -> list[dict[str, Any]]:
    """A model and two streams, as a user writes them."""
    common = {"kind": "Stream", "model": MODEL, "brokers": chain.broker, "resources": {"cpus": 0.1}, "session_timeout_s": 6}

    def topic(name: str, **more: Any) -> dict[str, Any]:
        return {"topic": chain.topic(name), "partitions": 1, **more}

    return [
        {"kind": "Model", "name": MODEL, "serving": {"transport": "embedded", "scaling": "manual", "resources": {"cpus": 0.1}}},
        common
        | {
            "name": SEALING,
            "input": topic("in"),
            "output": topic("sealed", encrypt={"fields": ["y"], "key": "prod"}),
            "dead_letters": topic("dead-sealing"),
        },
        common
        | {
            "name": OPENING,
            "input": topic("sealed", fields={"x": "y"}, decrypt={"fields": ["y"]}),
            "output": topic("out"),
            "dead_letters": topic("dead-opening"),
        },
    ]


@pytest.fixture(scope="module")
def chain(ray_cluster: RayCluster, broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    home = tmp_path_factory.mktemp("home")
    settings = read_settings({"HEADRACE_HOME": str(home)})
    with running(ray_cluster, settings, MODEL) as service, pytest.MonkeyPatch.context() as patch, node_keys() as keys:
        patch.setenv("HEADRACE_HOME", str(home))
        patch.setenv("HEADRACE_URL", service.url)
        patch.setenv("HEADRACE_TOKEN", home_key(settings.home))
        headrace("sealing", "new", "prod")
        shutil.copytree(home / "keys", keys, dirs_exist_ok=True)  # as an operator hands them to the nodes
        service.register(doubling_artifact(home / "artifacts", MODEL))
        made = Chain(service, broker, uuid.uuid4().hex[:6])
        (home / "all.yaml").write_text(yaml.safe_dump_all(documents(made)))
        try:
            headrace("apply", "-f", str(home / "all.yaml"))
            yield made
        finally:
            for name in (SEALING, OPENING):
                headrace("delete", "stream", name)


def test_an_erased_subject_is_read_by_nobody_and_the_streams_go_on(
    chain: Chain, ray_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    chain.send("in", [(who, row(1, 2, number)) for number in (3, 4) for who in (ADA, BOB)])
    until(lambda: len(chain.read("out", ADA)) == len(chain.read("out", BOB)) == 2, WAIT_S)
    for who in (ADA, BOB):
        answers = [orjson.loads(record.value)["y"] for record in chain.read("out", who)]
        np.testing.assert_array_equal(answers, [[4, 8, 12], [4, 8, 16]])
    hers, his = (chain.read("sealed", who)[0].value for who in (ADA, BOB))
    sealed = orjson.loads(hers)["y"]
    keys, pseudonym = owner_of(sealed) or ("", "")
    assert keys == "subjects"
    assert set(orjson.loads(hers)) == {"y"}

    capsys.readouterr()
    headrace("erase", ADA, "--json")
    assert orjson.loads(capsys.readouterr().out) == {"keys": "subjects", "subject": pseudonym}
    # A program that begins now opens hers no more; his, which was written for him, there and nowhere else.
    with FieldOpener.from_environment() as opener:
        fields = [sealed, orjson.loads(his)["y"]]
        read, moved = (opener.open(fields, topic=chain.topic(topic), name="y") for topic in ("sealed", "out"))
    assert [one.state for one in (*read, *moved)] == [
        FieldState.ERASED,
        FieldState.OPENED,
        FieldState.ERASED,
        FieldState.CHANGED,
    ]
    assert read[1].value == [2.0, 4.0, 6.0]

    # Those that run know it within the time that is promised; until then her records are taken as before.
    def again() -> bool:
        chain.send("sealed", [(ADA, hers), (BOB, his)])
        chain.send("in", [(ADA, row(7, 7, 7)), (BOB, row(5, 5, 5))])
        return bool(chain.read("dead-opening", ADA) and chain.read("dead-sealing", ADA))

    until(again, FRESH_S + WAIT_S / 2, every_s=0.5)
    answered = len(chain.read("out", ADA))
    chain.send("sealed", [(ADA, hers), (BOB, his)])
    until(lambda: answered + len(chain.read("dead-opening", ADA)) == len(chain.read("sealed", ADA)), WAIT_S)
    assert len(chain.read("out", ADA)) == answered
    until(lambda: len(chain.read("out", BOB)) == len(chain.read("sealed", BOB)), WAIT_S)
    his_answers = [orjson.loads(record.value)["y"] for record in chain.read("out", BOB)]
    assert his_answers[-1] == [4, 8, 12]
    assert [20, 20, 20] in his_answers

    letters = [*chain.read("dead-opening", ADA), *chain.read("dead-sealing", ADA)]
    assert all("its subject was erased" in reason(letter) for letter in letters)
    of_old = [letter.value for letter in chain.read("dead-opening", ADA)]
    assert hers in of_old  # as it came, for nobody to open
    assert {owner_of(orjson.loads(value)["y"]) for value in of_old} == {(keys, pseudonym)}
    assert not chain.read("dead-opening", BOB)
    assert not chain.read("dead-sealing", BOB)

    told = [orjson.loads(text) for text in chain.service.control.audit_records(0).documents]
    (erased,) = [each for each in told if each["event"] == "subject erased"]
    assert erased["detail"]["subject"] == pseudonym
    assert erased["actor"]
    reasons = "".join(str(letter.headers) for letter in letters)
    logs = b"".join(file.read_bytes() for file in ray_cluster.logs.rglob("*") if file.is_file())
    assert SEALING.encode() in logs
    for who in (ADA, BOB):
        assert who not in orjson.dumps(told).decode() + reasons
        assert who.encode() not in logs
