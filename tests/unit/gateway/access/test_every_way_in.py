"""Every route and every RPC that there is: without a key, with one for another model, and with one of the wrong role."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import orjson
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cluster.access.callers import CLUSTER, Caller, Role, grant_of
from cluster.commands.registry import COMMANDS
from cluster.routing.routes import RouteTable
from deployments.gateway.access.guard import Guard
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.grpc.service import NOT_OFFERED
from deployments.gateway.http.callers import Callers
from deployments.gateway.http.openapi import openapi_document
from deployments.gateway.protocol.proto import inference_pb2 as pb
from deployments.gateway.repository import Repository
from deployments.gateway.server import GatewayServer
from deployments.observe.meters import Meters
from tests.support.access import closed, made_key
from tests.support.brain import Brain
from tests.support.gateway_fakes import PATIENT, FakeControl, FakeScorer, model_view, table
from tests.support.listening import slot_in
from tests.support.one_haproxy import HAPROXY, haproxy_before
from tests.support.waiting import within

TENSOR = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
BODIES: dict[str, Any] = {
    "infer": {"inputs": [TENSOR]},
    ":predict": {"instances": [{"x": [1, 2]}]},
    "/explain": {"inputs": [TENSOR]},
    ":explain": {"instances": [{"x": [1, 2]}]},
}
OPEN = {"/v2/health/live", "/v2/health/ready"}
SERVICE = "inference.GRPCInferenceService"
OPEN_CALLS = {f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}

SCORER = made_key("scorer", grant_of([Role.SCORE], "pair"))
VIEWER = made_key("viewer", grant_of([Role.VIEW], "pair"))
OTHER = made_key("other", grant_of([role for role in Role if role is not Role.ADMIN], "other-*"))
BEARERS = {key.stored.name: key.bearer for key in (SCORER, VIEWER, OTHER)} | {"nobody": {}}


class FilteringControl(FakeControl):
    """Tells of models as the controller does: of those that the caller may see."""

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        answer = await super().call(command, payload)
        return {"models": [model for model in answer["models"] if caller.sees(model["name"])]} if command == "status" else answer


@dataclass
class Gateway:
    """One in which nobody may do anything but by one of the keys, behind HAProxy where there is one."""

    http: str
    grpc: str
    scorer: FakeScorer
    meters: Meters


def keyed(routes: RouteTable) -> RouteTable:
    return closed(routes, SCORER, VIEWER, OTHER)


def play(scene: Callable[[Gateway], Awaitable[None]], *, by_haproxy: bool = True) -> None:
    async def run() -> None:
        routes = keyed(table())
        scorer, control = FakeScorer(routes), FilteringControl(routes)
        control.models = [model_view()]
        meters = Meters()
        plane, repository = DataPlane(scorer, PATIENT, meters=meters), Repository(scorer, control)
        guard = Guard(scorer, visitors=True, meters=meters)
        server = GatewayServer(plane, repository, control, guard, "0", Callers.to())
        try:
            if not by_haproxy:
                ports = await server.listen("127.0.0.1", 0, 0)
                await scene(Gateway(f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", scorer, meters))
                return
            with tempfile.TemporaryDirectory() as folder:
                await server.start(slot_in(Path(folder)))
                async with haproxy_before(Path(folder)) as (http, port):
                    await scene(Gateway(f"http://127.0.0.1:{http}", f"127.0.0.1:{port}", scorer, meters))
        finally:
            await server.stop(1.0)

    asyncio.run(within(60, run()))


@pytest.fixture(params=[False, True], ids=["by itself", "behind HAProxy"])
def by_haproxy(request: pytest.FixtureRequest) -> bool:
    if request.param and HAPROXY is None:
        pytest.skip("Ray brings no HAProxy here")
    return bool(request.param)


def routes() -> Iterator[tuple[str, str, Any]]:
    """Method, path and body of each that the served document tells of, and the pages."""
    for path, methods in openapi_document("0")["paths"].items():
        for method in methods:
            body = next((body for ending, body in BODIES.items() if path.endswith(ending)), {})
            yield method.upper(), path.replace("{model}", "pair").replace("{version}", "3"), body
    yield from (("GET", "/", {}), ("GET", "/openapi.json", {}), ("GET", "/nothing/here", {}))


def expected(path: str, who: str) -> set[int]:
    """What is told there; commands are the controller's affair, which lets the other's through to it."""
    if path in OPEN:
        return {200}
    if who == "nobody":
        return {401}
    if path.startswith("/control/"):
        return {200}
    if path == "/nothing/here" or (who == "other" and "pair" in path):
        return {404}
    if who == "viewer" and path.endswith(tuple(BODIES)):
        return {403}
    return {200, 409} if path.endswith("/unload") else {200}


@pytest.mark.thorough
@pytest.mark.parametrize("who", BEARERS)
def test_every_route_of_http(who: str, by_haproxy: bool) -> None:
    async def scene(gateway: Gateway) -> None:
        told: dict[str, int] = {}
        filled = (
            (path.replace("{model}", "pair").replace("{version}", "3"), told)
            for path, told in openapi_document("0")["paths"].items()
        )
        documented = dict(filled)
        async with httpx.AsyncClient(base_url=gateway.http, headers=BEARERS[who], timeout=30, trust_env=False) as client:
            for method, path, body in routes():
                headers = {"content-type": "application/json"} if method == "POST" else {}
                content = orjson.dumps(body) if method == "POST" else None
                answer = await client.request(method, path, content=content, headers=headers)
                told[path] = answer.status_code
                assert answer.status_code in expected(path, who), (path, answer.status_code, answer.text)
                if who in ("nobody", "other") and path not in ("/openapi.json",):
                    assert "pair" not in answer.text.replace(path, "").replace("'pair'", ""), (path, answer.text)
                if path in documented:
                    assert str(answer.status_code) in documented[path][method.lower()]["responses"], path
                if answer.status_code == 401:
                    assert "Bearer" in answer.headers["www-authenticate"]
        assert len(told) > len(COMMANDS) + 20
        assert gateway.scorer.calls == ([1] * 3 if who == "scorer" else [])

    play(scene, by_haproxy=by_haproxy)


REQUESTS: dict[str, Any] = {
    "ServerLive": pb.ServerLiveRequest(),
    "ServerReady": pb.ServerReadyRequest(),
    "ServerMetadata": pb.ServerMetadataRequest(),
    "ModelReady": pb.ModelReadyRequest(name="pair"),
    "ModelMetadata": pb.ModelMetadataRequest(name="pair"),
    "ModelConfig": pb.ModelConfigRequest(name="pair"),
    "ModelStatistics": pb.ModelStatisticsRequest(name="pair"),
    "RepositoryIndex": pb.RepositoryIndexRequest(),
    "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="pair"),
    "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="pair"),
}


def infer_request() -> Any:
    request = pb.ModelInferRequest(model_name="pair", raw_input_contents=[b"\0\0\x80?\0\0\0@"])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    return request


async def told_by(channel: grpc.aio.Channel, call: str, message: bytes, who: str) -> grpc.StatusCode:
    metadata = tuple(BEARERS[who].items())
    try:
        await channel.unary_unary(call)(message, metadata=metadata, timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def calls() -> Iterator[tuple[str, bytes]]:
    """Every unary one of the service's own description."""
    described = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in described.methods:
        if method.name not in ("ModelStreamInfer", *NOT_OFFERED):
            request = infer_request() if method.name == "ModelInfer" else REQUESTS[method.name]
            yield f"/{SERVICE}/{method.name}", request.SerializeToString()
    yield "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest().SerializeToString()


@pytest.mark.parametrize("who", BEARERS)
def test_every_call_of_grpc(who: str, by_haproxy: bool) -> None:
    ok, code = grpc.StatusCode.OK, grpc.StatusCode

    async def scene(gateway: Gateway) -> None:
        async with grpc.aio.insecure_channel(gateway.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            for call, message in calls():
                told = await told_by(channel, call, message, who)
                if call in OPEN_CALLS:
                    assert told is ok, call
                elif who == "nobody":
                    assert told is code.UNAUTHENTICATED, call
                elif who == "other" and b"pair" in message and not call.endswith("ModelReady"):
                    assert told is code.NOT_FOUND, call
                elif who == "viewer" and call.endswith("ModelInfer"):
                    assert told is code.PERMISSION_DENIED, call
                elif call.endswith("Unload"):
                    assert told is code.FAILED_PRECONDITION, call  # it is served
                else:
                    assert told is ok, call
            for name in NOT_OFFERED:
                wanted = code.UNAUTHENTICATED if who == "nobody" else code.UNIMPLEMENTED
                assert await told_by(channel, f"/{SERVICE}/{name}", b"", who) is wanted
            of_model = health_pb2.HealthCheckRequest(service="pair").SerializeToString()
            wanted = {"nobody": code.UNAUTHENTICATED, "other": code.NOT_FOUND}.get(who, ok)
            assert await told_by(channel, "/grpc.health.v1.Health/Check", of_model, who) is wanted
        assert gateway.scorer.calls == ([1] if who == "scorer" else [])

    play(scene, by_haproxy=by_haproxy)


def test_the_audit_is_told_who_used_what_and_from_where_it_was_refused(by_haproxy: bool) -> None:
    async def scene(gateway: Gateway) -> None:
        two_rows = {"inputs": [TENSOR | {"shape": [2, 2], "data": [1, 2, 3, 4]}]}
        pair, told = "/v2/models/pair", {"x-forwarded-for": "192.0.2.9"}  # which the door sets
        async with httpx.AsyncClient(base_url=gateway.http, timeout=30, trust_env=False) as client:
            for who, path, body in (
                ("scorer", f"{pair}/infer", two_rows),
                ("scorer", f"{pair}/versions/3/infer", BODIES["infer"]),
                ("scorer", "/v1/models/pair:predict", BODIES[":predict"]),
                ("scorer", f"{pair}/explain", BODIES["/explain"]),
                ("scorer", f"{pair}/infer", {}),
                ("viewer", f"{pair}/infer", two_rows),
                ("scorer", "/v2/models/none-such/infer", two_rows),
            ):
                await client.post(path, json=body, headers=BEARERS[who])
            for _ in range(3):
                await client.post(f"{pair}/infer", json=two_rows, headers={"authorization": "Bearer hr_nonsense", **told})
            await client.post("/control/status", json={}, headers=told)
        async with grpc.aio.insecure_channel(gateway.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            await told_by(channel, f"/{SERVICE}/ModelInfer", infer_request().SerializeToString(), "scorer")
            stream: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
            said = stream(
                iter([b"\xff no message", infer_request().SerializeToString()]),
                metadata=tuple(BEARERS["scorer"].items()),
                timeout=30,
            )
            assert len([answer async for answer in said]) == 2
        gateway.meters.uses.end()
        report = gateway.meters.uses.next_report()
        assert report is not None
        assert {use[:5]: tuple(used) for use, used in report.uses.items() if not use.reason} == {
            ("key scorer", "pair", "3", "http", "ok"): (3, 4),
            ("key scorer", "pair", "3", "grpc", "ok"): (2, 2),
            ("key scorer", "", "", "grpc", "refused"): (1, 0),
            ("key scorer", "pair", "3", "http", "explained"): (1, 1),
            ("key scorer", "pair", "", "http", "refused"): (1, 0),
            ("key scorer", "", "", "http", "refused"): (1, 0),
            ("key viewer", "pair", "", "http", "refused"): (1, 0),
        }
        address = "192.0.2.9" if by_haproxy else ""  # without a door anybody could say so
        assert {(use.reason, use.address): used.calls for use, used in report.uses.items() if use.reason} == {
            ("no_such_key", address): 3,
            ("nothing", address): 1,
        }

    play(scene, by_haproxy=by_haproxy)


def test_streams_and_reflection_are_closed_too(by_haproxy: bool) -> None:
    async def scene(gateway: Gateway) -> None:
        async with grpc.aio.insecure_channel(gateway.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stream: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
            reflect: Any = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
            asked = reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
            for opened in (stream(timeout=20), reflect(timeout=20)):  # nothing is sent: it is refused all the same
                assert await opened.code() is grpc.StatusCode.UNAUTHENTICATED
            known = reflect(iter([asked]), metadata=tuple(OTHER.bearer.items()), timeout=20)
            assert [b"GRPCInferenceService" in answer async for answer in known] == [True]

            async def told(who: dict[str, str]) -> Any:
                answers = stream(iter([infer_request().SerializeToString()]), metadata=tuple(who.items()), timeout=20)
                return [pb.ModelStreamInferResponse.FromString(answer) async for answer in answers]

            assert (await told(SCORER.bearer))[0].infer_response.model_version == "3"
            assert "unknown model: 'pair'" in (await told(OTHER.bearer))[0].error_message
            assert "may see it, not score" in (await told(VIEWER.bearer))[0].error_message

    play(scene, by_haproxy=by_haproxy)


def test_an_open_stream_ends_for_a_key_that_is_revoked() -> None:
    async def scene(gateway: Gateway) -> None:
        async with grpc.aio.insecure_channel(gateway.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            opened: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
            stream = opened(metadata=tuple(SCORER.bearer.items()), timeout=20)
            await stream.write(infer_request().SerializeToString())
            first = pb.ModelStreamInferResponse.FromString(await stream.read())
            gateway.scorer.table = closed(table(), VIEWER)
            await stream.write(infer_request().SerializeToString())
            second = pb.ModelStreamInferResponse.FromString(await stream.read())
            await stream.done_writing()
        assert (first.error_message, first.infer_response.model_version) == ("", "3")
        assert "needs a key" in second.error_message

    play(scene, by_haproxy=False)


@pytest.mark.parametrize(
    "trailer",
    ["x-headrace-alone: 1", pytest.param(f"authorization: {SCORER.bearer['authorization']}", id="authorization")],
)
def test_what_stands_behind_a_body_is_no_header(by_haproxy: bool, trailer: str) -> None:
    async def scene(gateway: Gateway) -> None:
        _, _, port = gateway.http.rpartition(":")
        for method, path in (("POST", "/control/key.list"), ("POST", "/v2/repository/index"), ("GET", "/v2/models/stats")):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
            head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close"
            writer.write(f"{head}\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n{trailer}\r\n\r\n".encode())
            told = await within(20, reader.read())
            writer.close()
            assert told.startswith(b"HTTP/1.1 401 "), (path, told)

    play(scene, by_haproxy=by_haproxy)


def test_a_command_that_was_begun_before_its_key_was_revoked_is_not_run() -> None:
    async def scene(gateway: Gateway) -> None:
        _, _, port = gateway.http.rpartition(":")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        head = "POST /control/status HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: 100-continue"
        known = f"authorization: {VIEWER.bearer['authorization']}\r\nconnection: close\r\ncontent-length: 2"
        writer.write(f"{head}\r\n{known}\r\n\r\n".encode())
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")  # it was let in, and its body is awaited
        gateway.scorer.table = closed(table(), SCORER)
        writer.write(b"{}")
        told = await within(20, reader.read())
        writer.close()
        assert told.startswith(b"HTTP/1.1 401 "), told

    play(scene, by_haproxy=False)


def test_commands_reach_the_controller_as_their_caller() -> None:
    brain = Brain()
    brain.call("apply", models=[{"name": "pair", "serving": {}}])

    class Control(FakeControl):
        async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
            return brain.controller.call(command, payload, caller)

    async def run() -> None:
        routes = keyed(table())
        scorer, control = FakeScorer(routes), Control(routes)
        plane, repository = DataPlane(scorer, PATIENT), Repository(scorer, control)
        server = GatewayServer(plane, repository, control, Guard(scorer, visitors=True), "0", Callers.to())
        ports = await server.listen("127.0.0.1", 0, 0)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[0]}", trust_env=False) as client:
            for who, want in (("nobody", 401), ("other", 404), ("viewer", 200), ("scorer", 403)):
                answer = await client.post("/control/model.show", json={"model": "pair"}, headers=BEARERS[who])
                assert answer.status_code == want, (who, answer.text)
            answer = await client.post("/control/model.delete", json={"model": "pair"}, headers=VIEWER.bearer)
            assert (answer.status_code, answer.json()["error"]["kind"]) == (403, "Forbidden")
        await server.stop(1.0)

    asyncio.run(run())
