"""`ModelInfer` as HAProxy hands it over, over Unix sockets and behind the real one."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cluster.access.callers import Caller
from cluster.errors import HeadraceError, NoCapacity
from deployments.gateway.access.guard import Guard
from deployments.gateway.admission import Admission
from deployments.gateway.grpc.exchange import GrpcExchange
from deployments.gateway.grpc.service import SERVICE
from deployments.gateway.http.server.connection import InferServer, _Connection
from deployments.gateway.http.server.exchange import Exchange, WireAnswer
from deployments.gateway.http.server.head import RequestHead
from deployments.gateway.large import LargeWork
from deployments.observe.traces.traceparent import CallerTrace
from tests.support.gateway_fakes import FakeScorer, table
from tests.support.listening import slot_in
from tests.support.one_haproxy import HAPROXY, haproxy_before

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="Ray brings no HAProxy here")
LIMIT_BYTES = 1 << 20
ASK = service_pb2.ModelInferRequest(model_name="m")


class Model:
    """Answers with what it was asked."""

    def __init__(self) -> None:
        self.large = LargeWork()
        self.calls: list[tuple[bytes | None, float | None]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.given_up = asyncio.Event()
        self.raises: BaseException | None = None

    async def infer(
        self, data: memoryview, key: bytes | None, timeout_s: float | None, caller: Caller, trace: CallerTrace
    ) -> bytes:
        self.calls.append((key, timeout_s))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        if self.raises is not None:
            raise self.raises
        return bytes(data)


@dataclass
class Calls:
    """Every request is a call of the model's."""

    model: Model

    def of(self, head: RequestHead) -> Exchange:
        return GrpcExchange(self.model, Guard(FakeScorer(table()), visitors=True), head, LIMIT_BYTES)

    def broken(self, error: HeadraceError) -> WireAnswer:
        raise error


@dataclass
class Front:
    """HAProxy's port for gRPC, and what is behind it."""

    port: int
    admission: Admission


def play(scene: Callable[[Model, Path, Front], Awaitable[None]]) -> None:
    """Runs a scene with the path of the socket and HAProxy before it."""

    async def run() -> None:
        model, admission = Model(), Admission(4, 8 * LIMIT_BYTES)
        server = InferServer(Calls(model), admission)
        with tempfile.TemporaryDirectory() as folder:
            slot = slot_in(Path(folder))
            with slot.http:
                await server.start(slot.infer)
                async with haproxy_before(Path(folder)) as (_, port):
                    try:
                        async with asyncio.timeout(30):
                            await scene(model, Path(folder) / "infer", Front(port, admission))
                    finally:
                        await server.stop(0)
        assert admission.requests == admission.bytes == 0

    asyncio.run(run())


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


async def posted(path: Path, body: bytes, headers: bytes = b"") -> bytes:
    """What the lane answers to bytes that HAProxy might hand over, up to its end."""
    reader, writer = await asyncio.open_unix_connection(path)
    method = f"/{SERVICE}/ModelInfer".encode()
    writer.write(b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (method, headers, len(body), body))
    answer = await reader.readuntil(b"\r\n\r\n")
    while b"grpc-status" not in answer:
        answer += await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return answer


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\1\0\0\0\1a", b"\0\0\0\0\2a", framed(b"a") + framed(b"b"), framed(b"a") + b"\0"], ids=repr
)
def test_what_is_not_one_plain_message_is_the_callers_fault(body: bytes) -> None:
    async def scene(model: Model, path: Path, _: Front) -> None:
        assert b"grpc-status: 3\r\n" in await posted(path, body)
        assert model.calls == []
        assert b"grpc-status: 0\r\n" in await posted(path, framed(b"good"))

    play(scene)


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(b"5S", 5.0), (b"250m", 0.25), (b"7u", 1e-3), (b"99999999n", 0.099999999), (b"2M", 120.0), (b"1H", 3600.0)],
)
def test_the_time_and_the_key_are_told(timeout: bytes, seconds: float) -> None:
    async def scene(model: Model, path: Path, _: Front) -> None:
        headers = b"grpc-timeout: %b\r\nx-routing-key: ann\r\nx-routing-key: bob\r\n" % timeout
        assert framed(b"x") in await posted(path, framed(b"x"), headers)
        assert model.calls == [(b"ann", pytest.approx(seconds))]

    play(scene)


@pytest.mark.parametrize("timeout", [b"S", b"5", b"-5S", b"123456789S", b"5s", b"5 S"])
def test_a_time_that_is_none_is_refused(timeout: bytes) -> None:
    async def scene(model: Model, path: Path, _: Front) -> None:
        answer = await posted(path, framed(b"x"), b"grpc-timeout: %b\r\n" % timeout)
        assert b"grpc-status: 3\r\n" in answer
        assert b"grpc-timeout" in answer
        assert model.calls == []

    play(scene)


def test_a_message_in_many_pieces_and_one_over_the_limit() -> None:
    async def scene(_: Model, __: Path, front: Front) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            message = os.urandom(LIMIT_BYTES)
            assert await call(message) == message
            with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
                await call(message + b"x")
            assert await call(b"") == b""

    play(scene)


def test_metadata_over_the_limit_is_refused_on_its_call_alone() -> None:
    async def scene(_: Model, __: Path, front: Front) -> None:
        options = [("grpc.max_metadata_size", 1 << 20)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}", options=options) as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            few = [call(b"x") for _ in range(3)]
            for size in (14_000, 17_000, 40_000):
                large = call(b"y", metadata=[("x-note", "n" * size)])
                if size < 16_000:
                    assert await large == b"y"
                    continue
                with pytest.raises(grpc.aio.AioRpcError, match="metadata has more than 16384 bytes") as told:
                    await large
                assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await asyncio.gather(*few) == [b"x"] * 3
            assert await call(b"z") == b"z"

    play(scene)


def test_a_caller_that_gives_up_frees_its_work_and_the_rest_goes_on() -> None:
    async def scene(model: Model, _: Path, front: Front) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            model.go.clear()
            call = stub.ModelInfer(ASK)
            while not model.calls:
                await asyncio.sleep(0.001)
            call.cancel()
            await model.given_up.wait()
            model.go.set()
            await stub.ModelInfer(ASK)

    play(scene)


def test_who_waits_for_work_that_is_given_up_does_not_wait_for_ever() -> None:
    async def scene(model: Model, path: Path, _: Front) -> None:
        model.raises = asyncio.CancelledError()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await posted(path, framed(b"x"))

    play(scene)


@pytest.mark.thorough
@pytest.mark.usefixtures("no_collector")
def test_a_connection_that_has_ended_leaves_nothing_to_the_collector() -> None:
    async def scene(model: Model, path: Path, _: Front) -> None:
        assert b"grpc-status: 0\r\n" in await posted(path, framed(b"good"))
        while any(isinstance(each, _Connection) for each in gc.get_objects()):
            await asyncio.sleep(0.001)

    play(scene)


def test_a_text_of_any_characters_arrives() -> None:
    async def scene(model: Model, _: Path, front: Front) -> None:
        model.raises = NoCapacity("100 % full\r\nx: ü\0", where="m", remedy="wait")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(ASK)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == str(model.raises)
        assert ("retry-after", "1") in tuple(caught.value.trailing_metadata())

    play(scene)
