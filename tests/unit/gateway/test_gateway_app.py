"""The application over a scorer in memory, asked through ASGI as a server would."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import tracemalloc
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import replace
from itertools import islice
from typing import Any

import httpx
import numpy as np
import pytest

from cluster.errors import BadInput, Conflict, EngineFailure, HeadraceError, NoCapacity, Unreachable
from cluster.fleet.serving import Serving
from cluster.rollout.record import IllegalTransition
from cluster.routing.routes import EMPTY, Route, RouteTable, Standing
from cluster.routing.split import goes_to_candidate, to_candidate
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.gateway.lanes import CROWD, BatchLimits
from deployments.gateway.statistics import Statistics
from tests.support.gateway_fakes import PATIENT, FakeControl, FakeScorer, double, gateway, model_view, table, target

BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
INFER = "/v2/models/pair/infer"
EXTENSIONS_TOLD = ["binary_tensor_data", "model_repository", "model_configuration", "statistics"]

Client = httpx.AsyncClient


def run(scene: Callable[[Client, FakeScorer, FakeControl], Awaitable[None]], **options: Any) -> None:
    """Plays a scene with a client of a gateway over fakes."""

    async def play() -> None:
        routes = options.pop("routes", None) or table()
        scorer, control = FakeScorer(routes), FakeControl(routes)
        transport = httpx.ASGITransport(gateway(scorer, control, **options), raise_app_exceptions=False)
        async with Client(transport=transport, base_url="http://gateway") as client:
            await scene(client, scorer, control)

    asyncio.run(play())


def body_of(values: list[list[float]]) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [len(values), 2], "datatype": "FP32", "data": values}]}


def test_infer_answers_in_json_with_id_and_version() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        answer = await client.post(INFER, json=BODY | {"id": "a"})
        assert answer.status_code == 200
        assert answer.json() == {
            "model_name": "pair",
            "model_version": "3",
            "id": "a",
            "outputs": [
                {"name": "double", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 4.0]},
                {"name": "sum", "datatype": "FP64", "shape": [1], "data": [3.0]},
            ],
        }
        pinned = await client.post("/v2/models/pair/versions/2/infer", json=BODY | {"outputs": [{"name": "sum"}]})
        assert pinned.json()["model_version"] == "2"
        assert [output["name"] for output in pinned.json()["outputs"]] == ["sum"]

    run(scene)


def test_infer_answers_in_binary_and_compressed() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        x = np.arange(20_000, dtype=np.float32).reshape(-1, 2)
        tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
        outputs = [{"name": "double", "parameters": {"binary_data": True}}]
        header = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        headers = {"inference-header-content-length": str(len(header)), "content-encoding": "gzip", "accept-encoding": "gzip"}
        answer = await client.post(INFER, content=gzip.compress(header + x.tobytes()), headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-encoding"] == "gzip"
        length = int(answer.headers["inference-header-content-length"])
        assert np.array_equal(np.frombuffer(answer.content[length:], np.float32).reshape(-1, 2), 2 * x)

    run(scene)


def test_a_large_request_takes_at_most_two_copies_of_itself() -> None:
    rows, width, chunk_bytes = 16_384, 1024, 65_536
    size_bytes = rows * width * 4
    wide = Signature(
        inputs=(TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, width)),),
        outputs=(TensorSpec(name="sum", datatype=Datatype.FP64, shape=(-1,)),),
    )
    tensor = {"name": "x", "shape": [rows, width], "datatype": "FP32", "parameters": {"binary_data_size": size_bytes}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    header += b" " * (1 - len(header) % 4)  # what follows is not aligned, which costs a copy
    scorer = FakeScorer(table(wide), lambda tensors: {"sum": tensors["x"][:, 0].astype(np.float64)})
    app = gateway(scorer, FakeControl(scorer.table), max_body_bytes=2 * size_bytes)
    left = size_bytes
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= chunk_bytes
        first = left + chunk_bytes == size_bytes
        return {"type": "http.request", "body": (header if first else b"") + bytes(chunk_bytes), "more_body": left > 0}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"inference-header-content-length", b"%d" % len(header))]
    tracemalloc.start()
    try:
        asyncio.run(app({"type": "http", "method": "POST", "path": INFER, "headers": headers}, receive, send))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert statuses == [200]
    assert peak_bytes < 2.1 * size_bytes


def test_a_raw_request_needs_no_json() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        x = np.array([[1, 2]], np.float32)
        answer = await client.post(INFER, content=x.tobytes(), headers={"inference-header-content-length": "0"})
        assert answer.status_code == 200
        assert int(answer.headers["inference-header-content-length"]) < len(answer.content)

    run(scene)


@pytest.mark.parametrize(
    ("path", "status", "document"),
    [
        ("/v2", 200, {"name": "headrace", "version": "0.0.0", "extensions": EXTENSIONS_TOLD}),
        ("/v2/", 200, {"name": "headrace", "version": "0.0.0", "extensions": EXTENSIONS_TOLD}),
        ("/v2/health/live", 200, {"live": True}),
        ("/v2/health/ready", 200, {"ready": True}),
        ("/v2/models/pair/ready", 200, {"name": "pair", "ready": True}),
        ("/v2/models/pair/versions/2/ready", 200, {"name": "pair", "ready": True}),
        ("/v1/models", 200, {"models": ["pair"]}),
        ("/v1/models/pair", 200, {"name": "pair", "ready": True}),
    ],
)
def test_what_only_tells(path: str, status: int, document: dict[str, Any]) -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (status, document)

    run(scene)


def test_a_model_that_is_known_and_not_ready_is_said_to_be_so() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.table = replace(EMPTY, number=1, models={"pair": Standing.WAITING, "documented": Standing.EMPTY})
        for path in ("/v2/models/pair/ready", "/v2/models/pair/versions/3/ready", "/v1/models/pair"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (503, {"name": "pair", "ready": False})
            assert answer.headers["retry-after"] == "1"
        answer = await client.post(INFER, json=BODY)
        assert answer.status_code == 503
        assert answer.json() == {"error": "model pair: no version of it is ready (retry, or see `headrace status`)"}
        assert (await client.post("/v1/models/pair:predict", json={"instances": [[1, 2]]})).status_code == 503
        for path in ("/v2/models/none/ready", "/v2/models/documented/ready"):
            assert (await client.get(path)).status_code == 404
        assert control.called == []  # who asks again and again does not wake the controller

    run(scene)


def test_a_model_that_is_scaled_to_nothing_is_not_ready_and_the_others_are() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        control.models = [model_view()]
        answer = await client.get("/v2/models/pair/ready")
        assert (answer.status_code, answer.json()) == (503, {"name": "pair", "ready": False})
        assert (await client.get("/v2/health/ready")).status_code == 200
        index = (await client.post("/v2/repository/index", json={})).json()
        assert {entry["version"]: entry["reason"] for entry in index}["3"] == "it is scaled to no replicas"
        answer = await client.post("/v2/repository/models/pair/load", json={})
        assert answer.status_code == 409
        assert "headrace scale pair 1" in answer.json()["error"]
        assert (await client.post("/v2/repository/models/pair/unload", json={})).status_code == 200

    routes = table()
    asleep = {"pair": replace(routes.routes["pair"], asleep=True)}
    run(scene, routes=replace(routes, routes=asleep, models={"pair": Standing.ASLEEP}))


def test_metadata_comes_from_the_signature() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        for path in ("/v2/models/pair", "/v2/models/pair/versions/2"):
            document = (await client.get(path)).json()
            assert document["versions"] == ["2", "3"]
            assert document["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]

    run(scene)


def test_ready_only_when_every_model_with_a_version_is_served() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        served = scorer.table
        for away in (False, True):  # the controller: the table that is here stays true
            control.away = away
            scorer.table = replace(served, models={**served.models, "documented": Standing.EMPTY})
            assert (await client.get("/v2/health/ready")).status_code == 200
            scorer.table = replace(served, models={**served.models, "warming": Standing.WAITING})
            answer = await client.get("/v2/health/ready")
            assert (answer.status_code, answer.json()) == (503, {"ready": False})
            scorer.table = EMPTY
            assert (await client.get("/v2/health/ready")).status_code == 503
        assert control.called == []


def test_a_scrape_fails_rather_than_tell_what_was_so_a_while_ago() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        assert "headrace_gateways 1.0" in (await client.get("/metrics")).text
        control.away = True
        answer = await client.get("/metrics")
        assert (answer.status_code, answer.json()) == (503, {"error": "controller: away"})

    run(scene)


def test_a_model_whose_replicas_are_away_is_not_ready_and_the_gateway_is() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.table = replace(scorer.table, models={"pair": Standing.AWAY})
        answer = await client.get("/v2/models/pair/ready")
        assert (answer.status_code, answer.json()) == (503, {"name": "pair", "ready": False})
        assert (await client.get("/v2/health/ready")).status_code == 200

    run(scene)


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "message"),
    [
        ("GET", "/nothing", b"", {}, 404, "nothing at /nothing"),
        ("GET", INFER, b"", {}, 405, "GET"),
        ("DELETE", "/v2", b"", {}, 405, "DELETE"),
        ("GET", "/v2/models/none", b"", {}, 404, "none"),
        ("GET", "/v2/models/pair/versions/9", b"", {}, 404, "version 9"),
        ("GET", "/v2/models/pair/versions/latest", b"", {}, 404, "latest"),
        ("POST", "/v2/models/none/infer", json.dumps(BODY).encode(), {}, 404, "none"),
        ("POST", INFER, b"{", {}, 400, "not valid JSON"),
        ("POST", INFER, json.dumps(BODY).encode(), {"inference-header-content-length": "x"}, 400, "number of bytes"),
        ("POST", INFER, json.dumps(BODY).encode(), {"inference-header-content-length": "9" * 18}, 400, "999"),
        ("POST", INFER, json.dumps(BODY).encode(), {"content-encoding": "gzip"}, 400, "not valid gzip"),
        ("POST", INFER, json.dumps(BODY).encode(), {"x-timeout-ms": "-1"}, 400, "x-timeout-ms"),
        ("POST", INFER, b"x" * 2_000, {}, 413, "over 1000 bytes"),
        ("POST", INFER, gzip.compress(b"x" * 2_000, mtime=0), {"content-encoding": "gzip"}, 413, "more than 1000 bytes"),
        ("POST", INFER, json.dumps(BODY | {"outputs": [{"name": "y"}]}).encode(), {}, 400, "output 'y'.*double, sum"),
        ("POST", INFER, json.dumps(BODY | {"parameters": {"timeout": -1}}).encode(), {}, 400, "microseconds"),
        ("POST", INFER, json.dumps(BODY).replace('"x"', '"z"').encode(), {}, 400, "tensor 'z'.*inputs: x"),
        ("POST", INFER, json.dumps(BODY).replace("FP32", "FP64").encode(), {}, 400, "tensor 'x'.*must be FP32"),
        ("POST", INFER, json.dumps(BODY).replace("[1, 2]", "[2, 1]", 1).encode(), {}, 400, r"tensor 'x'.*\[-1, 2\]"),
        ("POST", INFER, json.dumps(body_of([])).encode(), {}, 400, "no rows"),
        ("POST", "/v1/models/pair:predict", b'{"instances": []}', {}, 400, "at least one row"),
    ],
)
def test_errors_have_the_right_status(
    method: str, path: str, content: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        answer = await client.request(method, path, content=content, headers=headers)
        assert answer.status_code == status
        assert re.search(message, answer.json()["error"])
        assert scorer.calls == []

    run(scene, max_body_bytes=1_000)


@pytest.mark.parametrize(
    ("failure", "status"), [(NoCapacity("full"), 503), (EngineFailure("broken"), 500), (BadInput("bad"), 400)]
)
def test_what_the_scorer_raises_is_told(failure: HeadraceError, status: int) -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.failure = failure
        answer = await client.post(INFER, json=BODY)
        assert (answer.status_code, answer.json()) == (status, {"error": failure.what})
        assert ("retry-after" in answer.headers) == (status == 503)

    run(scene)


def test_what_an_engine_refuses_of_a_row_is_a_400_that_names_row_and_tensor() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        refusal = BadInput("input 'x', element [1] of the row, is not UTF-8")
        scorer.row_error = lambda row: refusal if row[0] < 0 else None
        for path, body in ((INFER, body_of([[1, 2], [-1, 2]])), ("/v1/models/pair:predict", {"instances": [[1, 2], [-1, 2]]})):
            answer = await client.post(path, json=body)
            assert answer.status_code == 400
            assert answer.json() == {"error": "model pair, row 1: input 'x', element [1] of the row, is not UTF-8"}

    run(scene)


def test_statistics_count_requests_rows_calls_and_failures() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        tasks = await parked(scorer, client, 5)  # two calls of one request; three requests wait, and share a call
        scorer.gate.set()
        assert [(await task).status_code for task in tasks] == [200] * 5
        scorer.failure = EngineFailure("broken")
        assert (await client.post(f"{INFER}", json=body_of([[1, 2], [3, 4]]))).status_code == 500
        for path in ("/v2/models/stats", "/v2/models/pair/stats", "/v2/models/pair/versions/3/stats"):
            of_three = (await client.get(path)).json()["model_stats"][-1]
            assert (of_three["name"], of_three["version"]) == ("pair", "3")
            assert (of_three["inference_count"], of_three["execution_count"]) == (5, 3)
            counts = {name: duration["count"] for name, duration in of_three["inference_stats"].items()}
            assert counts == {name: 1 if name == "fail" else 5 for name in counts}
        assert (await client.get("/v2/models/pair/versions/9/stats")).status_code == 404

    run(scene)


def test_answers_that_cant_be_counted_are_given_once_and_the_reason_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = BadInput("no number", where="statistics")  # which a call may raise too, whose rows are then asked one by one

    def scored(*_: Any, **__: Any) -> None:
        raise broken

    monkeypatch.setattr(Statistics, "scored", scored)

    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        tasks = await parked(scorer, client, 5)
        scorer.gate.set()
        assert [(await task).status_code for task in tasks] == [200] * 5
        assert (await client.post(INFER, json=BODY)).status_code == 200
        assert scorer.calls == [1, 1, 3, 1]

    run(scene)
    reasons = [record.exc_info[1] for record in caplog.records if record.exc_info and "not counted" in record.message]
    assert reasons == [broken] * 4


def test_v1_predict() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        answer = await client.post("/v1/models/pair:predict", json={"instances": [[1, 2], [3, 4]]})
        assert answer.json()["predictions"] == [{"double": [2, 4], "sum": 3}, {"double": [6, 8], "sum": 7}]
        assert answer.json()["model_version"] == "3"

    run(scene)


def test_the_routing_key_comes_from_the_header_or_the_parameter() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        await client.post(INFER, json=body_of([[1, 2], [3, 4]]), headers={"x-routing-key": "ann"})
        await client.post(INFER, json=BODY | {"parameters": {"routing_key": "bob"}})
        await client.post(INFER, json=body_of([[1, 2], [3, 4]]))
        assert scorer.keys[:3] == [b"ann", b"ann", b"bob"]
        drawn = scorer.keys[3:]
        assert drawn[0] == drawn[1]
        assert drawn[0] is not None

    run(scene)


def test_the_deadline_comes_from_the_header_the_parameter_or_the_model() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        await client.post(INFER, json=BODY, headers={"x-timeout-ms": "60000"})
        await client.post(INFER, json=BODY | {"parameters": {"timeout": 30_000_000}})
        await client.post(INFER, json=BODY)
        bounds_s = [(30, 60), (20, 30), (0, 20)]
        assert all(low < (timeout or 0) <= high for timeout, (low, high) in zip(scorer.timeouts_s, bounds_s, strict=True))

    run(scene, routes=table(serving=Serving(timeout_s=20)))


def test_a_deadline_that_passes_is_answered() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        answer = await client.post(INFER, json=BODY, headers={"x-timeout-ms": "20"})
        assert answer.status_code == 503
        assert "no answer within 0.02 s" in answer.json()["error"]

    run(scene)


async def parked(scorer: FakeScorer, client: Client, count: int, start: int = 0) -> list[asyncio.Task[httpx.Response]]:
    """Sends requests one by one while the scorer's gate is shut, each until it is under way or queued."""
    tasks = []
    for value in range(start, start + count):
        tasks.append(asyncio.create_task(client.post(INFER, json=body_of([[value, 0]]))))
        for _ in range(20):
            await asyncio.sleep(0)
    return tasks


def test_requests_that_wait_are_scored_together_and_each_gets_its_own() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        tasks = await parked(scorer, client, 12)
        assert scorer.calls == [1, 1]
        scorer.gate.set()
        answers = [await task for task in tasks]
        assert [answer.json()["outputs"][0]["data"][0] for answer in answers] == [2.0 * value for value in range(12)]
        assert scorer.calls == [1, 1, 4, 4, 2]

    run(scene, routes=table(serving=Serving(max_batch_rows=4)))


def test_whoever_stable_answers_shares_no_call_with_the_candidates() -> None:
    keys = [b"key %d" % number for number in range(40)]
    theirs = to_candidate(keys, salt=7, weight=3000, random=np.random.default_rng())
    assert [goes_to_candidate(key, salt=7, weight=3000) for key in keys] == theirs.tolist()
    side = dict(zip(keys, theirs.tolist(), strict=True))
    route = Route("pair", 3, Serving(), {2: target(2), 3: target(3)}, candidate=2, weight=3000, salt=7)

    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        asked = [client.post(INFER, json=BODY, headers={"x-routing-key": key.decode()}) for key in keys]
        assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * len(keys)
        assert sum(scorer.calls) == len(keys) > len(scorer.calls)
        left = iter(scorer.keys)
        for rows in scorer.calls:
            assert len({side[key] for key in islice(left, rows) if key is not None}) == 1

    run(scene, routes=RouteTable(1, {"pair": route}))


@pytest.mark.thorough
def test_a_candidates_calls_keep_apart_and_the_stables_need_not_wait_for_that() -> None:
    keys = [b"key %d" % number for number in range(40)]
    theirs = [goes_to_candidate(key, salt=7, weight=5000) for key in keys]
    route = Route("pair", 3, Serving(), {2: target(2), 3: target(3)}, candidate=2, weight=5000, salt=7)

    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        async def ask(key: bytes) -> None:
            assert (await client.post(INFER, json=BODY, headers={"x-routing-key": key.decode()})).status_code == 200

        first, *rest = [key for key, candidate in zip(keys, theirs, strict=True) if candidate]
        await ask(first)
        waiting = [asyncio.create_task(ask(key)) for key in rest]
        for key in (key for key, candidate in zip(keys, theirs, strict=True) if not candidate):
            await ask(key)
        assert not any(task.done() for task in waiting)
        assert scorer.calls == [1] * (1 + len(keys) - sum(theirs))
        scorer.calls.clear()
        await asyncio.gather(*waiting)
        assert scorer.calls == [len(rest)]

    run(scene, routes=RouteTable(1, {"pair": route}), limits=replace(PATIENT, candidate_apart_s=3.0))


def test_a_candidates_next_call_waits_longer_where_many_asked_at_a_time() -> None:
    route = Route("pair", 3, Serving(), {2: target(2), 3: target(3)}, candidate=2, weight=10_000, salt=7)

    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        async def ask(count: int, timeout_ms: int) -> set[int]:
            headers = {"x-timeout-ms": str(timeout_ms)}
            answers = await asyncio.gather(*(client.post(INFER, json=BODY, headers=headers) for _ in range(count)))
            return {answer.status_code for answer in answers}

        assert await ask(CROWD - 1, 60_000) == {200}
        assert await ask(CROWD, 60_000) == {200}
        assert await ask(1, 20) == {503}
        assert scorer.calls == [CROWD - 1, CROWD]

    run(scene, routes=RouteTable(1, {"pair": route}), limits=replace(PATIENT, candidate_crowd_apart_s=3600.0))


def test_a_bad_request_never_spoils_its_neighbours() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.row_error = lambda row: BadInput("holds 3", where="pair") if row[0] == 3 else None
        scorer.gate.clear()
        tasks = await parked(scorer, client, 6)
        scorer.gate.set()
        answers = [await task for task in tasks]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 400, 200, 200]
        assert answers[3].json() == {"error": "model pair, row 0: holds 3"}
        assert scorer.calls == [1, 1, 4]

    run(scene)


def test_neighbours_are_asked_alone_where_a_whole_call_is_refused() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        def refuse(tensors: Any) -> Any:
            if (tensors["x"] == 3).any():
                raise BadInput("not 3")
            return {"double": 2 * tensors["x"], "sum": tensors["x"].sum(axis=1, dtype=np.float64)}

        scorer.answer = refuse
        scorer.gate.clear()
        tasks = await parked(scorer, client, 6)
        scorer.gate.set()
        assert [(await task).status_code for task in tasks] == [200, 200, 200, 400, 200, 200]

    run(scene)


def test_a_full_queue_answers_at_once() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        tasks = await parked(scorer, client, 5)
        refused = await client.post(INFER, json=BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "too many requests" in refused.json()["error"]
        scorer.gate.set()
        assert [(await task).status_code for task in tasks] == [200] * 5

    run(scene, limits=replace(PATIENT, queued_rows=3))


def test_what_is_large_waits_its_turn_and_what_is_too_large_is_told_the_limit() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        tasks = await parked(scorer, client, 3)
        large = asyncio.create_task(client.post(INFER, json=body_of([[1, 2]] * 9)))  # there is no room for it ever
        for _ in range(20):
            await asyncio.sleep(0)
        assert not large.done()
        scorer.gate.set()
        assert [(await task).status_code for task in (*tasks, large)] == [200] * 4
        for path, body in ((INFER, body_of([[1, 2]] * 11)), ("/v1/models/pair:predict", {"instances": [[1, 2]] * 11})):
            refused = await client.post(path, json=body)
            assert refused.status_code == 413
            assert "it has 11 rows, and a request may have 10" in refused.json()["error"]

    run(scene, limits=replace(PATIENT, queued_rows=5, request_rows=10))


def test_whoever_would_wait_past_his_deadline_is_told_at_once() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        (first,) = await parked(scorer, client, 1)
        await asyncio.sleep(0.1)  # so long does a call take, then
        scorer.gate.set()
        assert (await first).status_code == 200
        scorer.gate.clear()
        tasks = await parked(scorer, client, 3)  # two calls, and one request that waits
        refused = await client.post(INFER, json=BODY, headers={"x-timeout-ms": "10"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "requests wait longer than 0.01 s now" in refused.json()["error"]
        scorer.gate.set()
        assert [(await task).status_code for task in tasks] == [200] * 3

    run(scene)


@pytest.mark.parametrize(("scaling", "calls"), [({"max": 3}, 6), ({"mode": "manual", "replicas": 2}, 4), ({"max": 1}, 2)])
def test_more_calls_are_made_where_somebody_waits_long_up_to_what_replicas_bear(scaling: dict[str, Any], calls: int) -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        tasks = await parked(scorer, client, 10)
        assert scorer.calls == [1] * calls
        scorer.gate.set()
        assert [(await task).status_code for task in tasks] == [200] * 10

    run(scene, routes=table(serving=Serving(scaling=scaling)), limits=BatchLimits(patience_s=0.0))


def test_beside_a_call_under_way_requests_gather() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        tasks = await parked(scorer, client, 6)
        assert scorer.calls == [1]
        scorer.gate.set()
        assert [(await task).status_code for task in tasks] == [200] * 6
        assert scorer.calls == [1, 5]

    run(scene, limits=BatchLimits(gather_s=3600.0, patience_s=3600.0))


def test_callers_who_come_back_at_once_are_still_scored_together() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        async def caller() -> None:
            for _ in range(10):
                assert (await client.post(INFER, json=BODY)).status_code == 200

        await asyncio.gather(*(caller() for _ in range(8)))
        assert sum(scorer.calls) == 80
        assert len(scorer.calls) <= 30  # 10 calls of all, but for some who are a few turns of the loop late

    run(scene, limits=PATIENT)


def test_who_has_gathered_long_enough_is_scored_beside_a_call_that_hangs_though_nobody_else_comes() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        tasks = await parked(scorer, client, 2)
        while scorer.calls != [1, 1]:
            await asyncio.sleep(0.001)
        scorer.gate.set()
        assert [(await task).status_code for task in tasks] == [200] * 2

    run(scene, limits=BatchLimits(gather_s=0.02, patience_s=3600.0))


def test_a_call_is_made_in_no_callers_context() -> None:
    # Serve cancels the handle calls made in a request's context when that request ends early; a batch has many callers.
    request: ContextVar[str] = ContextVar("request")
    seen: list[str | None] = []

    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        def answer(tensors: Any) -> Any:
            seen.append(request.get(None))
            return double(tensors)

        scorer.answer = answer
        request.set("one of them")
        assert (await client.post(INFER, json=BODY)).status_code == 200

    run(scene)
    assert seen == [None]


def test_a_client_that_hangs_up_frees_its_work() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        tasks = await parked(scorer, client, 5)
        tasks[3].cancel()
        await asyncio.gather(tasks[3], return_exceptions=True)
        scorer.gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, httpx.Response) for one in done] == [True, True, True, False, True]
        assert scorer.calls == [1, 1, 2]

    run(scene)


def test_whoevers_time_is_over_while_he_waits_is_never_scored() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        tasks = await parked(scorer, client, 2)  # both under way: the next one waits
        late = await client.post(INFER, json=body_of([[9, 9]]), headers={"x-timeout-ms": "20"})
        assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        scorer.gate.set()
        assert [(await task).status_code for task in tasks] == [200, 200]
        assert (await client.post(INFER, json=BODY)).status_code == 200
        assert scorer.calls == [1, 1, 1]

    run(scene)


def test_a_call_ends_once_nobody_waits_for_it() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.gate.clear()
        tasks = await parked(scorer, client, 5)  # two calls of one request, three requests wait
        for task in tasks[:2]:
            task.cancel()
        await asyncio.gather(*tasks[:2], return_exceptions=True)
        while scorer.calls != [1, 1, 3]:
            await asyncio.sleep(0)
        assert scorer.ended == 2
        tasks[2].cancel()
        await asyncio.gather(tasks[2], return_exceptions=True)
        assert scorer.ended == 2  # two others wait for that one
        scorer.gate.set()
        assert [(await task).status_code for task in tasks[3:]] == [200, 200]

    run(scene)


@pytest.mark.parametrize("path", [INFER, "/control/status", "/v2/health/live"])
def test_a_head_over_the_limit_is_refused_in_json(path: str) -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        answer = await client.post(path, json=BODY, headers={"x-note": "n" * (16 << 10)})
        assert answer.status_code == 431
        assert "16384 are taken" in answer.json()["error"]

    run(scene)


def test_control_commands_pass_through() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        answer = await client.post("/control/rollout.pause", json={"model": "pair"})
        assert answer.json() == {"done": "rollout.pause"}
        assert control.called == [("rollout.pause", {"model": "pair"})]
        control.failure = Conflict("busy", where="pair", remedy="wait")
        answer = await client.post("/control/rollout.pause", json={"model": "pair"})
        assert (answer.status_code, answer.json()) == (
            409,
            {"error": {"kind": "Conflict", "what": "busy", "where": "pair", "remedy": "wait"}},
        )
        control.failure = IllegalTransition("ended")
        answer = await client.post("/control/rollout.pause", json={"model": "pair"})
        assert (answer.status_code, answer.json()["error"]["kind"]) == (409, "Conflict")  # the name that clients know
        control.failure = Unreachable("away")
        assert (await client.post("/control/status", json={})).status_code == 503

    run(scene)


@pytest.mark.parametrize(
    ("path", "content", "content_type", "status", "kind"),
    [
        ("/control/status", b"{}", "text/plain", 400, "BadInput"),
        ("/control/status", b"{", "application/json", 400, "BadInput"),
        ("/control/status", b"[]", "application/json", 400, "BadInput"),
        ("/control/reboot", b"{}", "application/json", 404, "NotFound"),
    ],
)
def test_control_refuses_what_is_no_command(path: str, content: bytes, content_type: str, status: int, kind: str) -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        answer = await client.post(path, content=content, headers={"content-type": content_type})
        assert (answer.status_code, answer.json()["error"]["kind"]) == (status, kind)
        assert control.called == []

    run(scene)


@pytest.mark.parametrize(
    ("host", "origin", "taken"),
    [
        ("gateway", None, True),  # as it was told it is called
        ("GATEWAY.:8000", None, True),
        ("localhost:8000", None, True),
        ("127.0.0.1:8000", "http://127.0.0.1:8000", True),  # its own page
        ("[::1]:8000", "http://[::1]:8000", True),
        ("192.0.2.7", None, True),
        (socket.gethostname(), None, True),
        ("gateway", "https://gateway", True),  # TLS ends before it
        ("evil.example", "http://evil.example", False),  # a name that leads here: DNS rebinding
        ("evil.example:8000", None, False),
        ("127.0.0.1.evil.example", None, False),
        ("localhost.evil.example", None, False),
        ("127.0.0.1:8000", "http://evil.example", False),
        ("127.0.0.1:8000", "http://127.0.0.1:3000", False),  # another program's page
        ("127.0.0.1:8000", "null", False),
    ],
)
def test_commands_and_repository_calls_are_taken_from_no_other_sites_page(host: str, origin: str | None, taken: bool) -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        control.models = [model_view()]
        headers = {"host": host} | ({} if origin is None else {"origin": origin})
        for path in ("/control/status", "/v2/repository/index", "/v2/repository/models/pair/load"):
            answer = await client.post(path, json={}, headers=headers)
            assert answer.status_code == (200 if taken else 403)
            if path.startswith("/control") and not taken:
                assert answer.json()["error"]["where"] == ("Host" if "evil" in host else "Origin")
        assert (len(control.called) > 0) is taken
        assert (await client.post(INFER, json=BODY, headers=headers)).status_code == 200  # whoever may call may ask

    run(scene)


def test_a_byte_order_mark_before_a_command_is_passed_over() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        control.models = [model_view()]
        json_content = {"content-type": "application/json"}
        for path in ("/control/status", "/v2/repository/index"):
            answer = await client.post(path, content=b"\xef\xbb\xbf{}", headers=json_content)
            assert answer.status_code == 200

    run(scene)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v2/systemsharedmemory/region/a/register", 501, "shared memory are not taken.*binary tensors"),
        ("GET", "/v2/cudasharedmemory/status", 501, "shared memory are not taken"),
        ("POST", "/v2/systemsharedmemory/unregister", 501, "shared memory are not taken"),
        ("GET", "/v2/trace/setting", 501, "traces"),
        ("POST", "/v2/models/pair/trace/setting", 501, "traces"),
        ("POST", "/v2/logging", 501, "logs"),
        ("POST", "/v2/models/none/infer", 404, "Request for unknown model: 'none' is not found"),
        ("GET", "/v2/models/none/ready", 404, "Request for unknown model: 'none' is not found"),
        ("POST", "/v2/repository/models/none/load", 404, "failed to load 'none'"),
        ("POST", "/v2/repository/models/none/unload", 404, "failed to unload 'none'"),
    ],
)
def test_tritons_clients_are_answered_in_their_words(method: str, path: str, status: int, words: str) -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        control.models = [model_view()]
        answer = await client.request(method, path, json=BODY if path.endswith("infer") else None)
        assert answer.status_code == status
        assert re.search(words, answer.json()["error"])

    run(scene)


def test_the_page_shows_what_is_loaded() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        page = await client.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert page.headers["content-type"].startswith("text/html")
        assert "Version 3 is stable" in page.text
        assert "http://gateway/v2/models/pair/infer" in page.text

    run(scene)


def test_programs_are_told_in_json_what_is_loaded_and_that_the_server_is_alive() -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        told = (await client.get("/")).json()
        assert told["status"] == "alive"
        (model,) = told["models"]
        assert (model["name"], model["versions"]) == ("pair", "Version 3 is stable")
        assert "http://gateway/v2/models/pair/infer" in model["call"]

    run(scene)


def test_a_bug_is_a_500_without_its_insides(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(client: Client, scorer: FakeScorer, control: FakeControl) -> None:
        scorer.answer = lambda tensors: {"double": tensors["secret"]}
        answer = await client.post(INFER, json=BODY)
        assert answer.status_code == 500
        assert "secret" not in answer.text

    run(scene)
    assert "KeyError: 'secret'" in caplog.text
