"""One artifact asked on all three ways, in this process: by HTTP, on a stream, in bulk."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from kafka import KafkaProducer

from cluster.routing.routes import Target
from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from consumers.batch.spec import BatchSpec
from consumers.batch.write.records import Pinned
from consumers.stream.kafka.clients import open_log
from consumers.stream.log.port import Member
from consumers.stream.loop import Loop
from consumers.stream.spec import Client
from deployments.artifacts.package import Artifact
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Admission
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.http.app import GatewayApp
from deployments.gateway.large import LargeWork
from deployments.gateway.repository import Repository
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from deployments.transport.transports import EmbeddedTransport
from tests.support.batch_parts import engine_scorer, published, quarantined
from tests.support.gateway_fakes import PATIENT
from tests.support.routing import TableControl, route
from tests.support.stream_topics import WAIT_S, read_values, small_stream
from tests.support.waiting import until

Row = dict[str, Any]


def control(artifact: Artifact) -> TableControl:
    return TableControl(route(Target(1, "m--v1", artifact.uri, artifact.digest, "onnx", artifact.manifest.signature), model="m"))


async def asked_online(artifact: Artifact, rows: Sequence[Row]) -> list[Row | str]:
    """Each row in a call of its own: its answer, or what it is refused for."""
    known, embedded = control(artifact), EmbeddedTransport()
    specs = {spec.name: spec for spec in artifact.manifest.signature.inputs}
    scorer = RoutedScorer(known, embedded=embedded)
    await scorer.start()
    await embedded.settled(["m--v1"])
    app = GatewayApp(
        DataPlane(scorer, PATIENT),
        Repository(scorer, known),
        known,
        Guard(scorer, visitors=True),
        "0",
        1 << 20,
        Admission(100, 1 << 30),
        LargeWork(),
    )
    found: list[Row | str] = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        for row in rows:
            inputs = [
                {"name": name, "datatype": specs[name].datatype, "shape": [1, *specs[name].shape[1:]], "data": [value]}
                for name, value in row.items()
            ]
            answer = await client.post("/v2/models/m/infer", json={"inputs": inputs})
            if answer.status_code == 200:
                found.append({one["name"]: one["data"] for one in answer.json()["outputs"]})
            else:
                assert answer.status_code == 400
                found.append(answer.json()["error"])
    await scorer.close()
    return found


def asked_on_a_stream(artifact: Artifact, broker: str, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The answers' values in order, and the dead letters' values."""
    spec = small_stream(broker, Client.LIBRDKAFKA, 1)
    producer = KafkaProducer(bootstrap_servers=broker)
    for row in rows:
        producer.send(spec.input.topic, orjson.dumps(row), b"k")
    producer.close()
    member = Member(spec.group_of("s"), "s-0", "s-0")
    with ScorerThread(lambda: RoutedScorer(control(artifact), embedded=EmbeddedTransport())) as scoring:
        loop = Loop("s", spec, scoring, lambda: open_log(spec, broker, member))
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            until(lambda: loop.counters.rows_out + loop.counters.rows_dead == len(rows), WAIT_S)
        finally:
            loop.stop()
            thread.join(60)
    return read_values(broker, spec.output.topic), read_values(broker, spec.dead_letters.topic)


def asked_in_bulk(
    artifact: Artifact, folder: Path, columns: Mapping[str, pa.Array], output: Mapping[str, str]
) -> tuple[pa.Table, dict[int, str]]:
    """The output by id, and the reasons of the quarantined by id. `output` are the output's columns, with the model's names."""
    (folder / "in").mkdir()
    rows = len(next(iter(columns.values())))
    pq.write_table(pa.table({"id": range(rows), **columns}), folder / "in" / "rows.parquet")
    spec = BatchSpec.model_validate(
        {
            "model": "m",
            "input": {"path": str(folder / "in"), "passthrough": ["id"]},
            "output": {"path": str(folder / "out"), "columns": dict(output)},
        }
    )
    pin = Pinned(model="m", version=1, artifact_uri=artifact.uri, digest=artifact.digest, signature=artifact.manifest.signature)
    begin("m", spec, pin, inline_workforce(engine_scorer), as_of=None, fresh=False, watch=lambda _progress: None)
    return published(folder / "out"), quarantined(folder / "out")
