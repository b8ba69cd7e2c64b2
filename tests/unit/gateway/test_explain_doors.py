"""Explanations through the application and over gRPC: V1, v2, and the model `pair.explain`; what is asked wrongly is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from cluster.errors import NoCapacity
from cluster.routing.routes import RouteTable
from cluster.routing.split import goes_to_candidate
from cluster.watch.catalogue import EXPLAIN_REQUESTS, REQUESTS
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.protocol.explanations import ROWS_MOST
from deployments.observe.meters import Meters
from tests.support.gateway_fakes import PATIENT, FakeControl, FakeScorer, gateway, table

Client = httpx.AsyncClient
EXPLAIN = "/v2/models/pair/explain"
# `sum` is x0 + x1, and the background rows are (0, 0) and (1, 1): so each is worth what it is above a half.
SUM = {"output": "sum"}


def run(scene: Callable[[Client, FakeScorer], Awaitable[None]], routes: RouteTable | None = None) -> Meters:
    """Plays a scene with a client of a gateway over fakes; what the gateway has counted."""
    meters = Meters()

    async def play() -> None:
        scorer = FakeScorer(routes or table())
        app = replace(gateway(scorer, FakeControl(scorer.table)), dataplane=DataPlane(scorer, PATIENT, meters=meters))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with Client(transport=transport, base_url="http://gateway") as client:
            await scene(client, scorer)

    asyncio.run(play())
    return meters


def body_of(values: list[list[Any]], **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [len(values), 2], "datatype": "FP32", "data": values}
    return {"inputs": [tensor], "parameters": SUM | parameters}


def outputs_of(answer: httpx.Response) -> dict[str, np.ndarray]:
    assert answer.status_code == 200, answer.text
    return {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in answer.json()["outputs"]}


def test_v2_answers_with_attributions_their_baseline_and_their_error() -> None:
    async def scene(client: Client, scorer: FakeScorer) -> None:
        for path in (EXPLAIN, "/v2/models/pair.explain/infer"):
            answer = await client.post(path, json=body_of([[2, 3], [0.5, 0.5]]))
            found = outputs_of(answer)
            np.testing.assert_allclose(found["attributions.x"], [[1.5, 2.5], [0, 0]], atol=1e-12)
            np.testing.assert_allclose(found["baseline"], [1, 1])
            np.testing.assert_allclose(found["answer"], [5, 1])
            assert np.abs(found["error"]).max() < 1e-9
            assert (found["evaluations"] > 0).all()
            assert not found["too_rough"].any()
            assert (answer.json()["model_name"], answer.json()["model_version"]) == ("pair.explain", "3")
            assert answer.json()["parameters"] == {"method": "exact", "output": "sum", "scale": "raw"}
        named = body_of([[2, 3]]) | {"outputs": [{"name": "baseline"}]}
        pinned = await client.post("/v2/models/pair/versions/2/explain", json=named)
        assert pinned.json()["model_version"] == "2"
        assert list(outputs_of(pinned)) == ["baseline"]
        assert scorer.explained[-1] == (2, None, 10.0)
        grouped = await client.post(
            EXPLAIN, json=body_of([[2, 3]], groups='{"both": ["x[0]", "x[1]"]}', baseline='{"x": [1, 1]}')
        )
        np.testing.assert_allclose(outputs_of(grouped)["attributions.x"], [[1.5, 1.5]])
        assert grouped.json()["parameters"]["groups"] == '[{"both":[3.0,0.0]}]'

    run(scene)


def test_v1_answers_with_an_explanation_a_row() -> None:
    async def scene(client: Client, scorer: FakeScorer) -> None:
        asked = {"instances": [[2, 3], [0.5, 0.5]], "parameters": SUM | {"method": "shapley", "seed": 3}}
        answer = await client.post("/v1/models/pair:explain", json=asked)
        assert answer.status_code == 200, answer.text
        first, second = answer.json()["explanations"]
        np.testing.assert_allclose(first["attributions"]["x"], [1.5, 2.5], atol=1e-12)
        np.testing.assert_allclose(second["attributions"]["x"], [0, 0], atol=1e-12)
        assert (first["method"], first["baseline"], first["answer"]) == ("shapley", 1, 5)
        groups = {"both": ["x[0]", "x[1]"]}
        asked = {"inputs": {"x": [[2, 3]]}, "parameters": SUM | {"groups": groups, "baseline": {"x": 0}}}
        pinned = await client.post("/v1/models/pair/versions/2:explain", json=asked)
        assert pinned.json()["model_version"] == "2"
        assert pinned.json()["explanations"][0]["groups"] == {"both": [5.0, 0.0]}

    run(scene)


def test_the_virtual_model_tells_what_it_takes_and_gives() -> None:
    async def scene(client: Client, scorer: FakeScorer) -> None:
        told = (await client.get("/v2/models/pair.explain")).json()
        assert (told["name"], told["versions"], told["inputs"]) == (
            "pair.explain",
            ["2", "3"],
            [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        )
        found = outputs_of(await client.post(EXPLAIN, json=body_of([[2, 3]])))
        assert [one["name"] for one in told["outputs"]] == list(found)
        assert told["outputs"][0] == {"name": "attributions.x", "datatype": "FP64", "shape": [-1, 2]}
        for path in ("/v2/models/pair.explain/ready", "/v2/models/pair.explain/versions/2/ready"):
            assert (await client.get(path)).json()["ready"] is True
        for path in ("/v2/models/none.explain", "/v2/models/none.explain/ready", "/v2/models/pair.explain.explain"):
            assert (await client.get(path)).status_code == 404

    run(scene)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (body_of([[2, 3]], output="none"), "explain.output: the version has no such output"),
        (body_of([[2, 3]], output="double", **{"class": 7}), "explain.class"),
        (body_of([[2, 3]], method="guess"), "explain.method"),
        (body_of([[2, 3]], method="gradients"), "explain.method"),
        (body_of([[2, 3]], groups='{"g": ["y"]}'), "explain.groups.g: 'y' is no feature"),
        (body_of([[2, 3]], groups="{"), "explain.groups: is no JSON"),
        (body_of([[2, 3]], baseline='{"x": [1, 2, 3]}'), "explain.baseline.x"),
        (body_of([[2, 3]], baseline='{"x": ["a", "b"]}'), "explain.baseline.x"),
        (body_of([[2, 3]], baseline='{"x": [null, 1]}'), "explain.baseline.x: holds NaN"),
        (body_of([[2, 3]], evaluations=0), "explain.evaluations"),
        (body_of([[2, 3]], method="exact", evaluations=2), "explain.evaluations"),
        (body_of([["a", 3]]), "tensor 'x'"),
        (body_of([[1, 2]] * (ROWS_MOST + 1)), "are explained a request"),
        (body_of([[2, 3]]) | {"outputs": [{"name": "none"}]}, "an explanation has no such output"),
        ({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}, "its shape must be"),
    ],
)
def test_what_is_asked_wrongly_is_told_in_words(asked: dict[str, Any], words: str) -> None:
    async def scene(client: Client, scorer: FakeScorer) -> None:
        answer = await client.post(EXPLAIN, json=asked)
        assert answer.status_code in (400, 413), answer.text
        assert words in answer.json()["error"]
        assert "(" in answer.json()["error"] or "must be" in answer.json()["error"]  # what to do

    run(scene)


@pytest.mark.parametrize("name", ["groups", "baseline"])
def test_what_is_nested_too_deeply_in_v1_is_told(name: str) -> None:
    deep = '{"a":' * 300 + "1" + "}" * 300
    body = f'{{"instances": [[2, 3]], "parameters": {{"{name}": {deep}}}}}'

    async def scene(client: Client, scorer: FakeScorer) -> None:
        answer = await client.post("/v1/models/pair:explain", content=body.encode())
        assert answer.status_code == 400, answer.text
        assert f"explain.{name}: is nested too deeply" in answer.json()["error"]

    run(scene)


def test_a_key_is_explained_by_the_version_that_answers_it() -> None:
    key = next(name for name in (b"%d" % i for i in range(1000)) if goes_to_candidate(name, salt=7, weight=1000))

    async def scene(client: Client, scorer: FakeScorer) -> None:
        await client.post(EXPLAIN, json=body_of([[2, 3]]), headers={"x-routing-key": key.decode(), "x-timeout-ms": "700"})
        assert scorer.explained == [(None, key, 0.7)]

    run(scene)


def test_explanations_are_counted_apart_and_are_nobodys_traffic() -> None:
    async def scene(client: Client, scorer: FakeScorer) -> None:
        await client.post(EXPLAIN, json=body_of([[2, 3]]))
        await client.post("/v1/models/pair:explain", json={"instances": [[2, 3]]})
        await client.post("/v2/models/pair.explain/infer", json=body_of([[2, 3]], seed=-1))
        await client.post("/v2/models/none.explain/infer", json=body_of([[2, 3]]))
        scorer.failure = NoCapacity("no", where="pair", remedy="retry")
        busy = await client.post(EXPLAIN, json=body_of([[2, 3]]))
        assert busy.status_code == 503
        assert scorer.calls == []
        stats = (await client.get("/v2/models/pair/stats")).json()["model_stats"]
        assert {one["inference_count"] for one in stats} == {0}

    report = run(scene).next_report()
    assert report is not None
    counts = {series.labels: count for series, count in report.counters.items() if series.metric == EXPLAIN_REQUESTS.name}
    assert counts == {
        ("pair", "3", "http", "ok"): 2,
        ("pair", "", "http", "refused"): 1,
        ("", "", "http", "refused"): 1,
        ("pair", "", "http", "shed"): 1,
    }
    assert not any(series.metric == REQUESTS.name for series in report.counters)
