"""The gRPC server over a scorer in memory, asked over a socket by an unchanged tritonclient and by raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_sync
import tritonclient.grpc.aio as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as theirs
from tritonclient.grpc import service_pb2_grpc

from cluster.errors import BadInput, EngineFailure, HeadraceError, NoCapacity, Unreachable
from cluster.fleet.serving import Serving
from cluster.routing.routes import EMPTY, Standing
from deployments.gateway.access.guard import Guard
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.grpc.service import SERVICE
from deployments.gateway.http.callers import Callers
from deployments.gateway.repository import Repository
from deployments.gateway.server import GatewayServer, ServerLimits
from tests.support.gateway_fakes import PATIENT, FakeControl, FakeScorer, model_view, table
from tests.support.listening import slot_in
from tests.support.one_haproxy import HAPROXY, haproxy_before

Client = triton.InferenceServerClient
ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
}


@pytest.fixture(params=[False, True], ids=["grpc.aio", "haproxy"], scope="module", autouse=True)
def door_kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Callers find no difference."""
    if request.param and HAPROXY is None:
        pytest.skip("Ray brings no HAProxy here")
    Door.by_haproxy = request.param
    yield
    Door.by_haproxy = False


@dataclass
class Door:
    """A gateway on a free port, with what is behind it."""

    by_haproxy: ClassVar[bool] = False

    client: Client
    channel: grpc.aio.Channel
    address: str
    scorer: FakeScorer
    control: FakeControl
    server: GatewayServer
    socket: Path | None = None

    async def takes_no_more(self) -> None:
        """Returns once its server is ending, and nobody listens behind HAProxy: what was connected before is still taken."""
        while not self.server.admission.ending.is_set():
            await asyncio.sleep(0)
        with contextlib.suppress(OSError):
            while self.socket is not None:
                _, writer = await asyncio.open_unix_connection(self.socket)
                writer.close()


def play(scene: Callable[[Door], Awaitable[None]], serving: Serving | None = None, max_message_bytes: int = 1 << 20) -> None:
    """Runs a scene against a server."""

    async def run() -> None:
        routes = table(serving=serving)
        scorer, control = FakeScorer(routes), FakeControl(routes)
        limits = ServerLimits(max_requests=100, max_message_bytes=max_message_bytes)
        dataplane, repository = DataPlane(scorer, PATIENT), Repository(scorer, control)
        server = GatewayServer(dataplane, repository, control, Guard(scorer, visitors=True), "0.0.0", Callers.to(), limits)
        async with contextlib.AsyncExitStack() as around:
            around.push_async_callback(server.stop, 0)
            socket = None
            if Door.by_haproxy:
                folder = Path(around.enter_context(tempfile.TemporaryDirectory()))
                socket = folder / "infer"
                await server.start(slot_in(folder))
                _, port = await around.enter_async_context(haproxy_before(folder))
            else:
                _, port = await server.listen("127.0.0.1", 0, 0)
            address = f"127.0.0.1:{port}"
            async with Client(address) as client, grpc.aio.insecure_channel(address) as channel:
                await scene(Door(client, channel, address, scorer, control, server, socket))

    asyncio.run(run())


def tensor(x: np.ndarray[Any, Any], datatype: str = "FP32") -> Any:
    given = triton.InferInput("x", list(x.shape), datatype)
    given.set_data_from_numpy(x)
    return given


def ask(model: str = "pair") -> Any:
    request = theirs.ModelInferRequest(model_name=model, raw_input_contents=[np.array([1, 2], "<f4").tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    return request


X = np.array([[1, 2], [3, 4]], np.float32)


def test_infer_answers_with_id_and_version() -> None:
    async def scene(door: Door) -> None:
        answer = await door.client.infer("pair", [tensor(X)], request_id="7", headers={"x-routing-key": "ann"})
        assert np.array_equal(answer.as_numpy("double"), 2 * X)
        assert answer.as_numpy("sum").tolist() == [3.0, 7.0]
        assert (answer.get_response().model_version, answer.get_response().id) == ("3", "7")
        asked = [triton.InferRequestedOutput("sum")]
        answer = await door.client.infer(
            "pair", [tensor(X)], model_version="2", outputs=asked, parameters={"routing_key": "bob"}, compression_algorithm="gzip"
        )
        assert [output.name for output in answer.get_response().outputs] == ["sum"]
        assert answer.get_response().model_version == "2"
        assert door.scorer.keys == [b"ann"] * 2 + [b"bob"] * 2

    play(scene)


def test_the_client_with_threads_works_too() -> None:
    async def scene(door: Door) -> None:
        def infer() -> Any:
            with triton_sync.InferenceServerClient(door.address) as client:
                given = triton_sync.InferInput("x", [2, 2], "FP32")
                given.set_data_from_numpy(X)
                return client.infer("pair", [given]).as_numpy("double")

        assert np.array_equal(await asyncio.to_thread(infer), 2 * X)

    play(scene)


def test_a_stream_is_answered_in_order_and_survives_a_bad_request() -> None:
    async def scene(door: Door) -> None:
        async def asked() -> AsyncIterator[dict[str, Any]]:
            for number in range(100):
                model = "none" if number == 50 else "pair"
                yield {"model_name": model, "inputs": [tensor(X + number)], "request_id": str(number)}

        seen = [answer async for answer in await _stream(door.client, asked())]
        result, error = seen.pop(50)
        assert result is None
        assert "none" in str(error)
        assert [result.get_response().id for result, _ in seen] == [str(number) for number in range(100) if number != 50]
        assert np.array_equal(seen[98][0].as_numpy("double"), 2 * (X + 99))

    play(scene)


async def _stream(client: Client, asked: AsyncIterator[dict[str, Any]]) -> Any:
    answers = client.stream_infer(asked)
    return await answers if asyncio.iscoroutine(answers) else answers


def test_the_server_tells_of_itself_and_its_models() -> None:
    async def scene(door: Door) -> None:
        client = door.client
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("pair")
        assert await client.is_model_ready("pair", "2")
        assert not await client.is_model_ready("pair", "1")
        assert not await client.is_model_ready("none")
        assert (await client.get_server_metadata()).name == "headrace"
        metadata = await client.get_model_metadata("pair")
        assert list(metadata.versions) == ["2", "3"]
        assert [(spec.name, spec.datatype, list(spec.shape)) for spec in metadata.inputs] == [("x", "FP32", [-1, 2])]
        config = (await client.get_model_config("pair", as_json=True))["config"]
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["2"]}]
        assert config["version_policy"] == {"specific": {"versions": ["2", "3"]}}
        assert (config["max_batch_size"], config["backend"]) == (2048, "onnx")

    play(scene)


def test_statistics_are_what_was_scored() -> None:
    async def scene(door: Door) -> None:
        one, none = await statistics(door, "pair", "2"), await statistics(door, "pair", "3")
        assert [(each.inference_count, each.execution_count, each.inference_stats.success.count) for each in (*one, *none)] == [
            (0, 0, 0),
            (0, 0, 0),
        ]
        for rows in (1, 3):
            tensor = triton.InferInput("x", [rows, 2], "FP32")
            tensor.set_data_from_numpy(np.ones((rows, 2), np.float32))
            await door.client.infer("pair", [tensor], model_version="2")
        (two, three) = await statistics(door)
        assert (two.name, two.version, two.inference_count, two.execution_count) == ("pair", "2", 4, 2)
        assert (two.inference_stats.success.count, two.inference_stats.fail.count) == (2, 0)
        assert 0 < two.inference_stats.compute_infer.ns <= two.inference_stats.success.ns
        assert (three.version, three.inference_count, three.last_inference) == ("3", 0, 0)
        with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
            await door.client.get_inference_statistics("none")

    play(scene)


async def statistics(door: Door, model: str = "", version: str = "") -> list[Any]:
    return list((await door.client.get_inference_statistics(model, version)).model_stats)


def test_the_repository_is_what_the_controller_knows() -> None:
    async def scene(door: Door) -> None:
        door.control.models = [model_view()]
        index = await door.client.get_model_repository_index()
        assert [(each.name, each.version, each.state, each.reason) for each in index.models] == [
            ("pair", "1", "UNAVAILABLE", "it is idle"),
            ("pair", "2", "READY", ""),
            ("pair", "3", "READY", ""),
            ("pair", "4", "LOADING", "0 of 1 replicas run: no GPU is free"),
        ]
        stub = service_pb2_grpc.GRPCInferenceServiceStub(door.channel)
        ready = await stub.RepositoryIndex(theirs.RepositoryIndexRequest(ready=True))
        assert [each.version for each in ready.models] == ["2", "3"]
        await door.client.load_model("pair")
        await stub.RepositoryModelLoad(theirs.RepositoryModelLoadRequest(repository_name="pair"))  # as KServe's client asks
        with pytest.raises(triton.InferenceServerException, match=r"FAILED_PRECONDITION.*served"):
            await door.client.unload_model("pair")
        with pytest.raises(triton.InferenceServerException, match=r"NOT_FOUND.*no such model"):
            await door.client.load_model("none")
        with pytest.raises(triton.InferenceServerException, match=r"INVALID_ARGUMENT.*config"):
            await door.client.load_model("pair", config="{}")
        door.scorer.table = replace(EMPTY, number=1)
        await door.client.unload_model("pair")
        with pytest.raises(triton.InferenceServerException, match=r"FAILED_PRECONDITION.*no GPU is free"):
            await door.client.load_model("pair")
        door.control.away = True
        with pytest.raises(triton.InferenceServerException, match=r"UNAVAILABLE.*away"):
            await door.client.get_model_repository_index()

    play(scene)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (BadInput("bad"), grpc.StatusCode.INVALID_ARGUMENT),
        (NoCapacity("full", remedy="retry later"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Unreachable("away"), grpc.StatusCode.UNAVAILABLE),
        (EngineFailure("broken"), grpc.StatusCode.INTERNAL),
        (EngineFailure("ß" * 100_000), grpc.StatusCode.INTERNAL),
    ],
)
def test_each_failure_has_its_code(failure: HeadraceError, code: grpc.StatusCode) -> None:
    async def scene(door: Door) -> None:
        door.scorer.failure = failure
        stub = service_pb2_grpc.GRPCInferenceServiceStub(door.channel)
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await stub.ModelInfer(ask())
        assert told.value.code() is code
        assert failure.what[:500] in str(told.value.details())
        trailers = dict(told.value.trailing_metadata())
        transient = code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
        assert trailers.get("grpc-retry-pushback-ms") == ("1000" if transient else None)

    play(scene)


def test_a_mistake_of_ours_tells_nothing_of_the_inside() -> None:
    async def scene(door: Door) -> None:
        def fail(_: Any) -> Any:
            raise ZeroDivisionError("secret")

        door.scorer.answer = fail
        with pytest.raises(triton.InferenceServerException, match="a fault of the gateway") as told:
            await door.client.infer("pair", [tensor(X)])
        assert "secret" not in str(told.value)

    play(scene)


def test_errors_name_the_tensor_and_the_model() -> None:
    async def scene(door: Door) -> None:
        for model, code, fault in (("pair", "INVALID_ARGUMENT", "tensor 'x'"), ("none", "NOT_FOUND", "none")):
            with pytest.raises(triton.InferenceServerException, match=fault) as told:
                await door.client.infer(model, [tensor(np.zeros((1, 3), np.float32))])
            assert told.value.status() == f"StatusCode.{code}"

    play(scene)


@pytest.mark.thorough
def test_the_calls_deadline_reaches_the_scorer_and_drops_its_work() -> None:
    async def scene(door: Door) -> None:
        door.scorer.gate.clear()
        stub = service_pb2_grpc.GRPCInferenceServiceStub(door.channel)
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await stub.ModelInfer(ask(), timeout=2.0)
        assert told.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # Not the 60 s of the model. gRPC rounds what is left up, by some milliseconds.
        assert 0 < (door.scorer.timeouts_s[0] or 0) < 3.0

    play(scene, Serving(timeout_s=60))


def test_messages_over_the_limit_are_refused_also_when_compressed() -> None:
    async def scene(door: Door) -> None:
        infer = door.channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for data, compression in ((b"\0" * (2 << 20), grpc.Compression.NoCompression), (bytes(64 << 20), grpc.Compression.Gzip)):
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await infer(data, compression=compression)
            assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(gzip.compress(bytes(64 << 20))) < 1 << 20
        assert await door.client.is_server_live()

    play(scene)


def test_calls_of_tritons_that_are_not_offered_are_refused_in_words() -> None:
    async def scene(door: Door) -> None:
        for name, words in (
            ("SystemSharedMemoryRegister", "shared memory"),
            ("CudaSharedMemoryStatus", "shared memory"),
            ("TraceSetting", "traces"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=words) as told:
                await door.channel.unary_unary(f"/{SERVICE}/{name}")(b"")
            assert told.value.code() is grpc.StatusCode.UNIMPLEMENTED

    play(scene)


def test_limits_that_grpc_lacks_are_refused() -> None:
    routes = table()
    scorer, control = FakeScorer(routes), FakeControl(routes)
    dataplane, repository = DataPlane(scorer, PATIENT), Repository(scorer, control)
    with pytest.raises(BadInput, match="max_grpc_message_bytes"):
        GatewayServer(
            dataplane,
            repository,
            control,
            Guard(scorer, visitors=True),
            "0",
            Callers.to(),
            ServerLimits(max_message_bytes=2 << 30),
        )


def test_health_of_the_server_and_of_a_model() -> None:
    async def scene(door: Door) -> None:
        health = health_pb2_grpc.HealthStub(door.channel)
        for name in ("", "pair", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await health.Check(health_pb2.HealthCheckRequest(service="none"))
        watch = health.Watch(health_pb2.HealthCheckRequest(service="pair"))
        seen = [(await watch.read()).status]
        door.scorer.table = replace(EMPTY, number=1, models={"pair": Standing.WAITING})
        seen.append((await watch.read()).status)
        status = health_pb2.HealthCheckResponse
        assert seen == [status.SERVING, status.NOT_SERVING]  # there is such a model
        answer = await health.Check(health_pb2.HealthCheckRequest(service="pair"))
        assert answer.status == status.NOT_SERVING
        watch.cancel()
        unknown = health.Watch(health_pb2.HealthCheckRequest(service="none"))
        assert (await unknown.read()).status == status.SERVICE_UNKNOWN
        unknown.cancel()

    play(scene)


def test_the_end_waits_for_no_open_stream() -> None:
    async def scene(door: Door) -> None:
        watch = health_pb2_grpc.HealthStub(door.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stream = service_pb2_grpc.GRPCInferenceServiceStub(door.channel).ModelStreamInfer()
        await stream.write(ask())
        assert (await stream.read()).infer_response.model_version == "3"
        ending = asyncio.create_task(door.server.stop(3600))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.code() is grpc.StatusCode.OK
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        await ending

    play(scene)


def test_whom_it_has_taken_it_answers_at_its_end_and_the_rest_it_refuses() -> None:
    async def scene(door: Door) -> None:
        answered = 0
        enough = asyncio.Event()

        async def go_on() -> grpc.StatusCode:
            """Calls until it is refused, and returns with what."""
            nonlocal answered
            async with grpc.aio.insecure_channel(door.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                while True:
                    try:
                        await stub.ModelInfer(ask())
                    except grpc.aio.AioRpcError as error:
                        return error.code()
                    answered += 1
                    if answered == 50:
                        enough.set()

        callers = [asyncio.create_task(go_on()) for _ in range(8)]
        await enough.wait()
        door.scorer.gate.clear()
        while len(door.scorer.calls) == 0 or sum(door.scorer.calls) == answered:  # some are inside
            await asyncio.sleep(0)
        ending = asyncio.create_task(door.server.stop(3600))
        await door.takes_no_more()
        late = service_pb2_grpc.GRPCInferenceServiceStub(door.channel).ModelInfer(ask())
        assert await late.code() is grpc.StatusCode.UNAVAILABLE
        assert not ending.done()
        door.scorer.gate.set()
        codes = await asyncio.gather(*callers)
        await ending
        # grpc.aio tells what arrives as it stops that it is cancelled.
        dropped = {grpc.StatusCode.CANCELLED} if not Door.by_haproxy else set()
        assert set(codes) <= {grpc.StatusCode.UNAVAILABLE} | dropped
        assert sum(door.scorer.calls) == answered

    play(scene)


def test_calls_beyond_the_bound_are_refused_at_once() -> None:
    async def scene(door: Door) -> None:
        door.scorer.gate.clear()
        stub = service_pb2_grpc.GRPCInferenceServiceStub(door.channel)
        calls = [stub.ModelInfer(ask()) for _ in range(110)]
        refused = {done async for done in _first(calls, 10)}
        assert {await call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        door.scorer.gate.set()
        answers = [await call for call in calls if call not in refused]
        assert len(answers) == 100

    play(scene)


async def _first(calls: list[Any], count: int) -> AsyncIterator[Any]:
    """The calls that end first."""
    codes = {asyncio.create_task(call.code()): call for call in calls}
    waiting = set(codes)
    while count > 0:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            count -= 1
            yield codes[task]
    for task in waiting:
        task.cancel()


def test_reflection_shows_every_service_with_its_messages() -> None:
    async def scene(door: Door) -> None:
        async def told(**asked: str) -> Any:
            stream = reflection_pb2_grpc.ServerReflectionStub(door.channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(**asked)])
            )
            (answer,) = [answer async for answer in stream]
            return answer

        services = [service.name for service in (await told(list_services="")).list_services_response.service]
        assert services == ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", SERVICE]
        for service in services:
            assert (await told(file_containing_symbol=service)).file_descriptor_response.file_descriptor_proto

    play(scene)


@pytest.mark.thorough
@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["noise", "cut", "flip"]), st.binary(max_size=40), st.integers(0, 60)), max_size=20))
def test_fuzzed_bytes_are_only_ever_the_callers_fault(cases: list[tuple[str, bytes, int]]) -> None:
    async def scene(door: Door) -> None:
        door.control.models = [model_view()]
        good = ask().SerializeToString()
        for how, noise, at in cases:
            data = noise if how == "noise" else good[:at] if how == "cut" else good[:at] + noise + good[at + len(noise) :]
            for method in ("ModelInfer", "ModelMetadata", "RepositoryModelUnload", "ModelConfig", "ModelReady"):
                call = door.channel.unary_unary(f"/{SERVICE}/{method}")(data, timeout=10)
                assert await call.code() in ALLOWED, (method, data, await call.details())

    play(scene)


def test_a_head_of_the_doors_limit_and_a_callers_certificate_is_taken() -> None:
    """gRPC's own limit is 8 KiB, and from there on by chance."""

    async def scene(door: Door) -> None:
        head = {f"x-{number}": "b" * 1000 for number in range(22)}
        for _ in range(20):
            assert (await door.client.get_model_metadata("pair", headers=head)).name == "pair"

    play(scene)
