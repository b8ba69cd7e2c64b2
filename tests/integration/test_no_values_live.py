"""A whole service that fails on marked rows, on every way in: nothing that was written anywhere holds a mark but the rows."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tritonclient.grpc as triton
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from tritonclient.utils import InferenceServerException

from cluster.commands.documents import Apply, FeedDocument
from cluster.errors import BadInput, EngineFailure
from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from consumers.batch.write.records import Pinned
from consumers.stream.spec import Client
from deployments.gateway.deployment import GatewaySettings
from headrace.local.home import read_settings
from headrace.local.ports import free_port
from tests.conftest import RayCluster
from tests.support.batch_parts import engine_scorer, quarantined, spec_of
from tests.support.live import Service, running
from tests.support.models import quoting_artifact
from tests.support.stream_topics import WAIT_S, small_stream
from tests.support.waiting import until

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]
MODEL = "unspoken"
MARK = f"Ada-{uuid.uuid4().hex}"
NUMBER = secrets.randbelow(10**15) + 10**15
MARKS = (MARK, str(NUMBER))


@pytest.fixture(scope="module")
def service(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str, Path]]:
    home, grpc_port = tmp_path_factory.mktemp("home"), free_port()
    settings = read_settings({"HEADRACE_HOME": str(home)})
    with running(ray_cluster, settings, MODEL, GatewaySettings(grpc_port=grpc_port)) as made:
        artifact = quoting_artifact(home / "artifacts", MODEL)
        made.register(artifact)
        payloads = {
            "errors": 1.0,
            "sample": 1.0,
            "redact": ["place"],
            "parquet": {"path": str(home / "payloads"), "every_s": 0.1},
        }
        made.apply({"resources": {"cpus": 0.1}}, {}, payloads=payloads)
        made.ended_last()
        yield made, f"127.0.0.1:{grpc_port}", home


def body(value: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "place", "shape": [1], "datatype": "INT64", "data": [value]}]}


def online(url: str, grpc: str) -> list[str]:
    """What callers are told whose rows the version fails, or nobody can read."""
    told: list[str] = []
    bad = [MARK, f'{{"inputs": {MARK}', f'{{"instances": ["{MARK}", 7]}}']
    with httpx.Client(base_url=f"{url}/", timeout=60, trust_env=False) as client:
        for path in (f"v2/models/{MODEL}/infer", f"v1/models/{MODEL}:predict", f"v2/models/{MODEL}/explain"):
            sent = [
                *bad,
                body(MARK),
                body([NUMBER]),
                body({MARK: 1}),
                {"instances": [NUMBER]},
                {"instances": [{"place": [MARK, 3]}]},
            ]
            for each in sent:
                content = each.encode() if isinstance(each, str) else orjson.dumps(each)
                answer = client.post(path, content=content, headers={"content-type": "application/json"})
                assert answer.status_code >= 400, (path, each)
                told.append(answer.text)
        good = client.post(f"v2/models/{MODEL}/infer", json=body(1))
        assert good.json()["outputs"][0]["data"] == [2.5]
        told += [client.get(path).text for path in ("metrics", f"v2/models/{MODEL}", f"v2/models/{MODEL}/stats")]
    with triton.InferenceServerClient(grpc) as client:
        asked = triton.InferInput("place", [1], "INT64")
        asked.set_data_from_numpy(np.array([NUMBER], np.int64))
        with pytest.raises(InferenceServerException) as caught:
            client.infer(MODEL, [asked])
        told.append(str(caught.value))
    return told


def on_a_stream(service: Service, broker: str) -> list[str]:
    """The reasons of dead letters; the letters themselves hold the records, whole."""
    small = small_stream(broker, Client.AUTO, 1, resources={"cpus": 0.1})
    spec = small.model_copy(update={"model": MODEL, "brokers": broker})
    values = [
        orjson.dumps({"place": NUMBER}),
        MARK.encode(),
        orjson.dumps({"place": [MARK, NUMBER]}),
        orjson.dumps({"other": MARK}),
    ]
    producer = KafkaProducer(bootstrap_servers=broker)
    for value in [*values, orjson.dumps({"place": 1})]:
        producer.send(spec.input.topic, value, b"k")
    producer.close()
    name = f"{MODEL}-stream"
    feed = FeedDocument(kind="stream", name=name, model=MODEL, spec=spec.model_dump(mode="json"))
    service.control.apply(Apply(feeds=(feed,)))
    consumer = KafkaConsumer(bootstrap_servers=broker, isolation_level="read_committed", auto_offset_reset="earliest")
    consumer.assign([TopicPartition(spec.dead_letters.topic, 0)])
    letters: list[Any] = []

    def all_there() -> bool:
        letters.extend(record for records in consumer.poll(timeout_ms=200).values() for record in records)
        return len(letters) == len(values)

    try:
        until(all_there, WAIT_S)
    finally:
        consumer.close()
    assert [letter.value for letter in letters] == values
    return [str(letter.headers) for letter in letters]


def in_bulk(folder: Path, pin: Pinned) -> list[str]:
    (folder / "in").mkdir(parents=True)
    pq.write_table(pa.table({"id": [0, 1, 2], "place": [NUMBER, 1, None], "who": [MARK] * 3}), folder / "in/rows.parquet")
    output = {"columns": {"number": "number"}}
    spec = spec_of(folder / "in", folder / "out", output=output)
    begin("b", spec, pin, inline_workforce(engine_scorer), as_of=None, fresh=False, watch=lambda _: None)
    found = quarantined(folder / "out")
    assert sorted(found) == [0, 2]
    strict = spec.model_copy(update={"max_quarantined": 0})
    with pytest.raises((BadInput, EngineFailure)) as caught:
        begin("b", strict, pin, inline_workforce(engine_scorer), as_of=None, fresh=True, watch=lambda _: None)
    records = [file.read_text() for file in folder.rglob("*.json")]
    assert records
    return [*found.values(), str(caught.value), *records]


def test_no_mark_is_written(service: tuple[Service, str, Path], ray_cluster: RayCluster, broker: str) -> None:
    made, grpc, home = service
    told = online(made.url, grpc)
    told += on_a_stream(made, broker)
    version = made.control.resolve_version(MODEL, 1)
    pin = Pinned(model=MODEL, version=1, artifact_uri=version.artifact_uri, digest=version.digest, signature=version.signature)
    told += in_bulk(home / "bulk", pin)
    told += made.control.audit_records(0).documents
    told.append(made.control.rollout_history(MODEL).model_dump_json())
    told.append(made.control.status().model_dump_json())
    assert len(told) > 40
    for text in told:
        assert not any(mark in text for mark in MARKS), text
    assert sum("while running Gather node" in text for text in told) > 5  # of what onnxruntime quotes, that is told
    bulk, logs = home / "bulk", ray_cluster.logs
    written = [file for folder in (home, logs) for file in folder.rglob("*") if file.is_file() and bulk not in file.parents]
    assert any("unspoken" in file.read_text(errors="replace") for file in written if file.is_relative_to(logs))
    contents = {file: file.read_bytes() for file in written}
    assert not [file for file, data in contents.items() if any(mark.encode() in data for mark in MARKS)]
