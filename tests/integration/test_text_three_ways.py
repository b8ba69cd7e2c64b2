"""One model with text in and text out, online, on a stream and in bulk: the same rows get the same answers, or are refused."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from kafka import KafkaProducer
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

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
from tests.support.builds import run
from tests.support.gateway_fakes import PATIENT
from tests.support.routing import TableControl, route
from tests.support.stream_topics import WAIT_S, read_values, small_stream
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("builds_here")]
TEXTS = {"purpose": pa.string(), "housing": pa.large_string(), "job": pa.dictionary(pa.int32(), pa.string())}
Row = dict[str, Any]
# One of each kind: known words, words that the model never saw, none at all, and what no way takes.
ROWS: list[Row] = [
    {"amount": 12.5, "purpose": "car", "housing": "own", "job": "clerk"},
    {"amount": 80.0, "purpose": "\u00e9tudes", "housing": "rent", "job": "\u6559\u5e2b"},
    {"amount": 80.0, "purpose": "yacht \U0001f6e5", "housing": "\u00e9tudes", "job": "x" * 300},
    {"amount": 3.0, "purpose": "", "housing": "own", "job": ""},
    {"amount": 3.0, "purpose": None, "housing": "own", "job": "clerk"},
    {"amount": 3.0, "purpose": "car", "housing": None, "job": "clerk"},
    {"amount": 3.0, "purpose": "car", "housing": "own", "job": None},
    {"amount": 41.0, "purpose": "car\ttab", "housing": "rent", "job": "clerk"},
]
REFUSED = {4: "purpose", 5: "housing", 6: "job"}


def fit() -> tuple[Any, pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(0)
    words = {"purpose": ["car", "house", "\u00e9tudes"], "housing": ["own", "rent"], "job": ["clerk", "\u6559\u5e2b", "none"]}
    table = pd.DataFrame({"amount": random.uniform(1, 100, 300).astype(np.float32)})
    table = table.assign(**{name: random.choice(known, 300).astype(object) for name, known in words.items()})
    odds = table["amount"] - 40 * (table["purpose"] == "house") + 30 * (table["housing"] == "rent")
    label = np.where(odds > odds.median(), "r\u00fcckzahlung", "ausfall")
    prepared = ColumnTransformer(
        [("amount", StandardScaler(), ["amount"]), ("texts", OneHotEncoder(handle_unknown="ignore"), list(TEXTS))]
    )
    return make_pipeline(prepared, LogisticRegression()).fit(table, label), table, label


def built(folder: Path, pipeline: Any, table: pd.DataFrame, label: np.ndarray) -> Artifact:
    skops.io.dump(pipeline, folder / "m.skops")
    table.assign(label=label).to_parquet(folder / "rows.parquet")
    columns = [{"name": name, "datatype": "BYTES" if name in TEXTS else "FP32", "shape": [-1, 1]} for name in table]
    section = {
        "source": {"sklearn": "m.skops"},
        "inputs": columns,
        "outputs": ["label", "probabilities"],
        "evaluate": {"data": "rows.parquet", "label": "label"},
        "optimise": False,
    }
    made = run(folder, section, model="m").artifact
    assert made is not None
    return made


def control(artifact: Artifact) -> TableControl:
    return TableControl(route(Target(1, "m--v1", artifact.uri, artifact.digest, "onnx", artifact.manifest.signature), model="m"))


async def asked_online(artifact: Artifact) -> list[Row | str]:
    """Each row in a call of its own: its answer, or what it is refused for."""
    known, embedded = control(artifact), EmbeddedTransport()
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
        for row in ROWS:
            inputs = [
                {"name": name, "datatype": "BYTES" if name in TEXTS else "FP32", "shape": [1, 1], "data": [value]}
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


def asked_on_a_stream(artifact: Artifact, broker: str) -> tuple[list[Row], list[Row]]:
    """The answers' values in order, and the dead letters' values."""
    spec = small_stream(broker, Client.LIBRDKAFKA, 1)
    producer = KafkaProducer(bootstrap_servers=broker)
    for row in ROWS:
        producer.send(spec.input.topic, orjson.dumps(row), b"k")
    producer.close()
    member = Member(spec.group_of("s"), "s-0", "s-0")
    with ScorerThread(lambda: RoutedScorer(control(artifact), embedded=EmbeddedTransport())) as scoring:
        loop = Loop("s", spec, scoring, lambda: open_log(spec, broker, member))
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            until(lambda: loop.counters.rows_out + loop.counters.rows_dead == len(ROWS), WAIT_S)
        finally:
            loop.stop()
            thread.join(60)
    return read_values(broker, spec.output.topic), read_values(broker, spec.dead_letters.topic)


def asked_in_bulk(artifact: Artifact, folder: Path) -> tuple[pa.Table, dict[int, str]]:
    """The output by id, and the reasons of the quarantined by id."""
    columns = {name: pa.array([row[name] for row in ROWS], TEXTS.get(name, pa.float32())) for name in ROWS[0]}
    (folder / "in").mkdir()
    pq.write_table(pa.table({"id": range(len(ROWS)), **columns}), folder / "in" / "rows.parquet")
    spec = BatchSpec.model_validate(
        {
            "model": "m",
            "input": {"path": str(folder / "in"), "passthrough": ["id"]},
            "output": {"path": str(folder / "out"), "columns": {"decision": "label", "probabilities": "probabilities"}},
        }
    )
    pin = Pinned(model="m", version=1, artifact_uri=artifact.uri, digest=artifact.digest, signature=artifact.manifest.signature)
    begin("m", spec, pin, inline_workforce(engine_scorer), as_of=None, fresh=False, watch=lambda _progress: None)
    return published(folder / "out"), quarantined(folder / "out")


def expected(pipeline: Any, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[float]]]:
    table = pd.DataFrame(rows)
    return list(zip(pipeline.predict(table).tolist(), pipeline.predict_proba(table).tolist(), strict=True))


async def test_text_is_answered_alike_on_all_three_ways(tmp_path: Path, broker: str) -> None:
    pipeline, table, label = fit()
    artifact = built(tmp_path, pipeline, table, label)
    good = [place for place in range(len(ROWS)) if place not in REFUSED]
    truth = expected(pipeline, [ROWS[place] for place in good])

    online = await asked_online(artifact)
    answers, dead = asked_on_a_stream(artifact, broker)
    output, reasons = asked_in_bulk(artifact, tmp_path)

    for place, name in REFUSED.items():
        assert name in str(online[place])
        assert reasons[place] == f"column {name} is null"
    assert dead == [ROWS[place] for place in REFUSED]
    assert sorted(reasons) == sorted(REFUSED)

    by_way = {
        "online": [(online[place]["label"][0], online[place]["probabilities"]) for place in good],  # type: ignore[index]
        "stream": [(answer["label"], answer["probabilities"]) for answer in answers],
        "bulk": list(zip(output["decision"].to_pylist(), output["probabilities"].to_pylist(), strict=True)),
    }
    assert output["id"].to_pylist() == good
    for way, found in by_way.items():
        assert [word for word, _ in found] == [word for word, _ in truth], way
        np.testing.assert_allclose([p for _, p in found], [p for _, p in truth], atol=1e-5, err_msg=way)
        np.testing.assert_allclose([p for _, p in found], [p for _, p in by_way["online"]], atol=1e-7, err_msg=way)
