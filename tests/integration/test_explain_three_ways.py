"""The same rows explained online, on a stream and in bulk: the same numbers. On a stream some are chosen, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from kafka import KafkaProducer

from cluster.routing.routes import Target
from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from consumers.stream.explain.section import StreamExplain
from consumers.stream.explain.worker import ExplainWorker, explain_spec
from consumers.stream.kafka.clients import open_log
from consumers.stream.kafka.making_topics import ensure_topics
from consumers.stream.log.port import Member
from consumers.stream.spec import Client
from deployments.engines.load import load_engine
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Admission
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.http.app import GatewayApp
from deployments.gateway.large import LargeWork
from deployments.gateway.repository import Repository
from deployments.observe.metering import SilentMeter
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from deployments.transport.transports import EmbeddedTransport
from tests.support.batch_parts import engine_scorer, pinned, published, spec_of, write_file
from tests.support.explaining_replicas import ExplainingReplicas
from tests.support.gateway_fakes import PATIENT
from tests.support.models import INPUT, OUTPUT, mlp_artifact, rows
from tests.support.routing import Artifact, TableControl, route
from tests.support.stream_topics import WAIT_S, read_values, small_stream
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
ASKED: dict[str, Any] = {"method": "shapley", "evaluations": 3200, "class": 3, "seed": 5}
TOP = 6


def control(artifact: Artifact) -> TableControl:
    target = Target(1, "digits--v1", artifact[0], artifact[1], "onnx", artifact[2].signature)
    return TableControl(route(target, model="digits"))


async def explained_online(artifact: Artifact, image: np.ndarray) -> list[dict[str, Any]]:
    known = control(artifact)
    scorer = RoutedScorer(known, embedded=EmbeddedTransport(), explainer=ExplainingReplicas())
    await scorer.start()
    plane, repository = DataPlane(scorer, PATIENT), Repository(scorer, known)
    guard, admission = Guard(scorer, visitors=True), Admission(100, 1 << 30)
    app = GatewayApp(plane, repository, known, guard, "0", 1 << 20, admission, LargeWork())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway", timeout=60) as client:
        body = {"instances": image.tolist(), "parameters": ASKED}
        answer = await client.post("/v1/models/digits:explain", json=body, headers={"x-timeout-ms": "60000"})
    await scorer.close()
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["explanations"]
    return found


def explained_on_a_stream(
    artifact: Artifact, broker: str, values: list[bytes], section: dict[str, Any], wanted: int
) -> tuple[list[dict[str, Any]], list[Any]]:
    """The explanations in order, and the dead letters, once so many are there and all of the input is committed."""
    base = small_stream(broker, Client.LIBRDKAFKA, 1)
    asked = StreamExplain.model_validate({"topic": f"{base.output.topic}-why", "from_beginning": True} | ASKED | section)
    spec = explain_spec(base, asked, "s").model_copy(update={"model": "digits"})
    ensure_topics(spec, broker)
    producer = KafkaProducer(bootstrap_servers=broker)
    for number, value in enumerate(values):
        producer.send(spec.input.topic, value, b"k%d" % number)
    producer.close()
    group = spec.group_of("s")
    embedded = EmbeddedTransport()
    scoring = ScorerThread(
        lambda: RoutedScorer(control(artifact), embedded=embedded, explainer=ExplainingReplicas(), meter=SilentMeter())
    )
    told: list[int] = []

    def explained(_version: int, rows: int) -> None:
        told.append(rows)

    worker = ExplainWorker("s", spec, asked, scoring, lambda: open_log(spec, broker, Member(group, "s-0", "s-0")), explained)
    worker.start(None)
    try:
        until(lambda: worker.loop is not None and worker.loop.counters.rows_in == len(values), WAIT_S)
    finally:
        worker.stop()
        worker.join(60)
    found = read_values(broker, spec.output.topic)
    assert len(found) == wanted == sum(told)
    return found, read_values(broker, spec.dead_letters.topic)


def explained_in_bulk(artifact: Artifact, folder: Path, image: np.ndarray) -> list[dict[str, float]]:
    write_file(folder / "in" / "rows.parquet", range(len(image)), image.tolist())
    spec = spec_of(folder / "in", folder / "out", explain=ASKED | {"top": TOP})
    begin("digits", spec, pinned(artifact), inline_workforce(engine_scorer), as_of=None, fresh=False, watch=lambda _: None)
    table = published(folder / "out")
    named = zip(table["explained_features"].to_pylist(), table["explained_values"].to_pylist(), strict=True)
    return [dict(zip(names, values, strict=True)) for names, values in named]


async def test_a_row_gets_the_same_numbers_on_all_three_ways(tmp_path: Path, broker: str) -> None:
    artifact, image = mlp_artifact(tmp_path / "artifacts"), rows(3, seed=9)
    online = await explained_online(artifact, image)
    values = [orjson.dumps({INPUT: row.tolist()}) for row in image]
    values.insert(1, b"{broken")
    whole, dead = explained_on_a_stream(artifact, broker, values, {"sample": 1.0}, 3)
    bulk = explained_in_bulk(artifact, tmp_path, image)
    assert dead == []  # what can't be decoded is the stream's own dead letter
    for here, there, named in zip(online, whole, bulk, strict=True):
        mine = np.array(here["attributions"][INPUT])
        np.testing.assert_allclose(there["attributions"][INPUT], mine, atol=1e-6)
        assert (there["label"], there["method"], there["evaluations"]) == (3, "shapley", here["evaluations"])
        assert there["error"] == pytest.approx(here["error"], abs=1e-6)
        assert len(named) == TOP
        for name, value in named.items():
            assert value == pytest.approx(mine[int(name[len(INPUT) + 1 : -1])], abs=1e-6)
        assert min(map(abs, named.values())) >= np.sort(np.abs(mine))[-TOP] - 1e-6


async def test_a_stream_explains_what_conditions_choose(tmp_path: Path, broker: str) -> None:
    artifact, image = mlp_artifact(tmp_path / "artifacts"), rows(12, seed=2)
    classes = engine_answers(artifact, image).argmax(axis=1)
    wanted = int(np.bincount(classes).argmax())
    section = {"where": [[f"argmax({OUTPUT})", "=", wanted]], "top": 2, "evaluations": 1600, "class": wanted}
    values = [orjson.dumps({INPUT: row.tolist()}) for row in image]
    chosen = int((classes == wanted).sum())
    found, _ = explained_on_a_stream(artifact, broker, values, section, chosen)
    assert 0 < chosen < len(image)
    assert all(len(one["features"]) == len(one["values"]) == 2 and one["label"] == wanted for one in found)


def engine_answers(artifact: Artifact, image: np.ndarray) -> np.ndarray:
    return np.asarray(load_engine(Path(artifact[0])).score({INPUT: image})[OUTPUT])
