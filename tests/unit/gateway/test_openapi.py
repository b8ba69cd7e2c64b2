"""The served OpenAPI document is true: real answers are held against it, whatever was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.commands.registry import COMMANDS
from cluster.errors import NotFound
from cluster.routing.routes import EMPTY, Standing
from tests.support.brain import Brain
from tests.support.gateway_fakes import FakeControl, FakeScorer, gateway, model_view, table

TENSOR = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
BODY = {"inputs": [TENSOR]}
BINARY = BODY | {"outputs": [{"name": "double", "parameters": {"binary_data": True}}]}
ONE = {"model": "pair", "version": "2"}

Ask = Callable[..., Awaitable[httpx.Response]]


def run(scene: Callable[[Ask, dict[str, Any], FakeScorer, FakeControl], Awaitable[None]]) -> None:
    """Plays a scene with the served document and a call that holds every answer against it."""

    async def play() -> None:
        scorer, control = FakeScorer(table()), FakeControl(table())
        control.models = [model_view()]
        transport = httpx.ASGITransport(gateway(scorer, control), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            document = (await client.get("/openapi.json")).json()

            async def ask(method: str, path: str, names: dict[str, str] | None = None, **content: Any) -> httpx.Response:
                answer = await client.request(method, path.format(**(names or ONE)), **content)
                hold(document, method, path, answer)
                return answer

            await scene(ask, document, scorer, control)

    asyncio.run(play())


def hold(document: dict[str, Any], method: str, path: str, answer: httpx.Response) -> None:
    """Fails where the document does not tell of such an answer."""
    told = document["paths"][path][method.lower()]["responses"]
    assert str(answer.status_code) in told, (path, answer.status_code, answer.text)
    media = told[str(answer.status_code)]["content"]
    assert answer.headers["content-type"].partition("; version")[0] in media
    if answer.headers["content-type"] == "application/json":
        schema = media["application/json"]["schema"] | {"components": document["components"]}
        jsonschema.validate(answer.json(), schema, jsonschema.Draft202012Validator)


def test_its_schemas_are_schemas_and_every_reference_leads_somewhere() -> None:
    async def scene(ask: Ask, document: dict[str, Any], scorer: FakeScorer, control: FakeControl) -> None:
        schemas = document["components"]["schemas"]
        for schema in schemas.values():
            jsonschema.Draft202012Validator.check_schema(schema)
        used = set(json.dumps(document).split("#/components/schemas/")[1:])
        assert {text.partition('"')[0] for text in used} == set(schemas)
        jsonschema.validate(BINARY, schemas["InferRequest"])

    run(scene)


def test_every_command_is_told_with_what_it_takes_and_answers() -> None:
    async def scene(ask: Ask, document: dict[str, Any], scorer: FakeScorer, control: FakeControl) -> None:
        told = {path.removeprefix("/control/") for path in document["paths"] if path.startswith("/control/")}
        assert told == set(COMMANDS)
        schemas = document["components"]["schemas"]
        assert schemas["control.DeleteModel"]["required"] == ["model"]
        brain = Brain()
        brain.serve_first()
        for command, asked in (("status", {}), ("model.show", {"model": "digits"}), ("rollout.history", {"model": "digits"})):
            answer = document["paths"][f"/control/{command}"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
            whole = answer | {"components": document["components"]}
            jsonschema.validate(brain.call(command, **asked), whole, jsonschema.Draft202012Validator)
        assert (await ask("POST", "/control/model.show", content=b"{}")).status_code == 400
        control.failure = NotFound("there is no model 'none'", where="model", remedy="known models: pair")
        assert (await ask("POST", "/control/model.show", json={"model": "none"})).status_code == 404
        control.away = True
        assert (await ask("POST", "/control/status", json={})).status_code == 503

    run(scene)


def test_every_path_that_tells_answers_as_it_says() -> None:
    async def scene(ask: Ask, document: dict[str, Any], scorer: FakeScorer, control: FakeControl) -> None:
        paths = [path for path, operations in document["paths"].items() if "get" in operations]
        assert paths
        control.models = []
        for path in paths:
            assert (await ask("GET", path)).status_code == 200
        scorer.table = replace(EMPTY, number=1, models={"warming": Standing.WAITING})
        for path in paths:
            assert (await ask("GET", path)).status_code == (404 if "{" in path else 503 if path.endswith("/ready") else 200)

    run(scene)


@pytest.mark.parametrize("path", ["/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"])
def test_inference_answers_as_it_says(path: str) -> None:
    async def scene(ask: Ask, document: dict[str, Any], scorer: FakeScorer, control: FakeControl) -> None:
        answers = [await ask("POST", path, json=body) for body in (BODY, BODY | {"id": "a"}, BINARY, {}, {"inputs": []})]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 400, 400]
        assert (await ask("POST", path, content=b"x" * (2 << 20))).status_code == 413
        assert (await ask("POST", path, {"model": "none", "version": "9"}, json=BODY)).status_code == 404
        scorer.gate.clear()
        assert (await ask("POST", path, json=BODY, headers={"x-timeout-ms": "20"})).status_code == 503

    run(scene)


def test_v1_answers_as_it_says() -> None:
    async def scene(ask: Ask, document: dict[str, Any], scorer: FakeScorer, control: FakeControl) -> None:
        for body, status in (({"instances": [[1, 2]]}, 200), ({}, 400)):
            assert (await ask("POST", "/v1/models/{model}:predict", json=body)).status_code == status

    run(scene)


@pytest.mark.parametrize("path", ["/v2/models/{model}/explain", "/v2/models/{model}/versions/{version}/explain"])
def test_explanations_answer_as_they_say(path: str) -> None:
    async def scene(ask: Ask, document: dict[str, Any], scorer: FakeScorer, control: FakeControl) -> None:
        names = {"outputs": [{"name": "error", "parameters": {"binary_data": True}}]}
        answers = [await ask("POST", path, json=body) for body in (BODY, BODY | names, {}, BODY | {"parameters": {"seed": -1}})]
        assert [answer.status_code for answer in answers] == [200, 200, 400, 400]
        assert (await ask("POST", path, {"model": "none", "version": "9"}, json=BODY)).status_code == 404
        v1 = "/v1/" + path.removeprefix("/v2/").removesuffix("/explain") + ":explain"
        for body, status in (
            ({"instances": [[1, 2]]}, 200),
            ({}, 400),
            ({"instances": [[1, 2]], "parameters": {"groups": 1}}, 400),
        ):
            assert (await ask("POST", v1, json=body)).status_code == status

    run(scene)


def test_the_repository_answers_as_it_says() -> None:
    async def scene(ask: Ask, document: dict[str, Any], scorer: FakeScorer, control: FakeControl) -> None:
        index = (await ask("POST", "/v2/repository/index")).json()
        assert [entry["state"] for entry in index] == ["UNAVAILABLE", "READY", "READY", "LOADING"]
        ready = (await ask("POST", "/v2/repository/index", json={"ready": True})).json()
        assert [entry["version"] for entry in ready] == ["2", "3"]
        load, unload = (f"/v2/repository/models/{{model}}/{call}" for call in ("load", "unload"))
        asked: list[tuple[str, Any, int]] = [
            (load, {}, 200),
            (load, {"parameters": {"config": "{}"}}, 400),
            (load, {"parameters": 3}, 400),
            (load, [], 400),
            (unload, {"parameters": {"unload_dependents": False}}, 409),
        ]
        for path, body, status in asked:
            assert (await ask("POST", path, json=body)).status_code == status
        assert (await ask("POST", load, {"model": "none"})).status_code == 404
        scorer.table = replace(EMPTY, number=1)
        assert (await ask("POST", unload)).status_code == 200
        assert (await ask("POST", load)).status_code == 409
        control.away = True
        assert (await ask("POST", "/v2/repository/index")).status_code == 503

    run(scene)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def spoiled(document: Any, field: str, value: Any) -> Any:
    """The request with one field of it, or of its tensor, replaced."""
    if field in ("inputs", "outputs", "id", "parameters"):
        return document | {field: value}
    return document | {"inputs": [TENSOR | {field.removeprefix("tensor."): value}]}


@pytest.mark.thorough
@settings(max_examples=200)
@given(
    st.sampled_from(
        [
            "inputs",
            "outputs",
            "id",
            "parameters",
            "tensor.name",
            "tensor.shape",
            "tensor.datatype",
            "tensor.parameters",
            "tensor.data",
        ]
    ),
    json_values,
    st.none() | st.integers(-1, 300) | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=5),
    st.binary(max_size=20),
)
def test_fuzzed_requests_get_an_answer_that_it_tells_of(field: str, value: Any, length: int | str | None, tail: bytes) -> None:
    async def scene(ask: Ask, document: dict[str, Any], scorer: FakeScorer, control: FakeControl) -> None:
        content = json.dumps(spoiled(BODY, field, value)).encode() + tail
        headers = {} if length is None else {"inference-header-content-length": str(length)}
        answer = await ask("POST", "/v2/models/{model}/infer", content=content, headers=headers)
        assert answer.status_code in (200, 400, 413)

    run(scene)
