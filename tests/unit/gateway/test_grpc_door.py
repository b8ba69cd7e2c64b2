"""HAProxy before gRPC: what it hands over, and what becomes of it where a process dies."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from cluster.errors import NoCapacity
from deployments.gateway.grpc import front as grpc_front
from deployments.gateway.grpc.calls import Calls
from deployments.gateway.grpc.front import Behind, GrpcFront, haproxy
from deployments.gateway.grpc.lane import NAME_BYTES, GrpcLane, _Connection
from deployments.gateway.grpc.service import SERVICE
from tests.support.broken_haproxy import broken_haproxy

HAPROXY = haproxy()
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="Ray brings no HAProxy here")
LIMIT_BYTES = 1 << 20
ASK = service_pb2.ModelInferRequest(model_name="m")


class Model:
    """Answers with what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes | None, float | None]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.given_up = asyncio.Event()
        self.raises: BaseException | None = None

    async def infer(self, data: memoryview, key: bytes | None, timeout_s: float | None) -> bytes:
        self.calls.append((key, timeout_s))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        if self.raises is not None:
            raise self.raises
        return bytes(data)


def play(scene: Callable[[Model, str, GrpcFront], Awaitable[None]]) -> None:
    """Runs a scene with the lane's name and HAProxy before it."""

    async def run() -> None:
        model = Model()
        lane = GrpcLane(model.infer, Calls(), LIMIT_BYTES, 4)
        name = await lane.open()
        assert HAPROXY is not None
        front = GrpcFront(HAPROXY, "127.0.0.1", 0, Behind(name, 1, 4))
        try:
            async with asyncio.timeout(30):
                await scene(model, name, front)
        finally:
            await front.stop(0)
            await lane.close()

    asyncio.run(run())


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


async def posted(name: str, body: bytes, headers: bytes = b"") -> bytes:
    """What the lane answers to bytes that HAProxy might hand over, up to its end."""
    reader, writer = await asyncio.open_unix_connection(b"\0" + name.encode().ljust(NAME_BYTES, b"\0"))
    path = f"/{SERVICE}/ModelInfer".encode()
    writer.write(b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (path, headers, len(body), body))
    answer = await reader.readuntil(b"\r\n\r\n")
    while b"grpc-status" not in answer:
        answer += await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return answer


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\1\0\0\0\1a", b"\0\0\0\0\2a", framed(b"a") + framed(b"b"), framed(b"a") + b"\0"], ids=repr
)
def test_what_is_not_one_plain_message_is_the_callers_fault(body: bytes) -> None:
    async def scene(model: Model, name: str, _: GrpcFront) -> None:
        assert b"grpc-status: 3\r\n" in await posted(name, body)
        assert model.calls == []
        assert b"grpc-status: 0\r\n" in await posted(name, framed(b"good"))

    play(scene)


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(b"5S", 5.0), (b"250m", 0.25), (b"7u", 1e-3), (b"99999999n", 0.099999999), (b"2M", 120.0), (b"1H", 3600.0)],
)
def test_the_time_and_the_key_are_told(timeout: bytes, seconds: float) -> None:
    async def scene(model: Model, name: str, _: GrpcFront) -> None:
        headers = b"grpc-timeout: %b\r\nx-routing-key: ann\r\nx-routing-key: bob\r\n" % timeout
        assert framed(b"x") in await posted(name, framed(b"x"), headers)
        assert model.calls == [(b"ann", pytest.approx(seconds))]

    play(scene)


@pytest.mark.parametrize("timeout", [b"S", b"5", b"-5S", b"123456789S", b"5s", b"5 S"])
def test_a_time_that_is_none_is_refused(timeout: bytes) -> None:
    async def scene(model: Model, name: str, _: GrpcFront) -> None:
        answer = await posted(name, framed(b"x"), b"grpc-timeout: %b\r\n" % timeout)
        assert b"grpc-status: 3\r\n" in answer
        assert b"grpc-timeout" in answer
        assert model.calls == []

    play(scene)


def test_a_message_in_many_pieces_and_one_over_the_limit() -> None:
    async def scene(_: Model, __: str, front: GrpcFront) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            message = os.urandom(LIMIT_BYTES)
            assert await call(message) == message
            with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
                await call(message + b"x")
            assert await call(b"") == b""

    play(scene)


def test_what_is_no_grpc_is_told_so_in_json() -> None:
    preface, settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0"
    get = b"\x82\x86\x84\x41\x09localhost"  # GET http://localhost/
    headers = len(get).to_bytes(3, "big") + b"\1\5\0\0\0\1" + get

    async def scene(_: Model, __: str, front: GrpcFront) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(preface + settings + headers)
        told = await reader.readuntil(b"}")
        assert b'{"error": "only gRPC is served on this port' in told
        writer.close()

    play(scene)


def test_metadata_over_the_limit_is_refused_on_its_call_alone() -> None:
    async def scene(_: Model, __: str, front: GrpcFront) -> None:
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
    async def scene(model: Model, _: str, front: GrpcFront) -> None:
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
    async def scene(model: Model, name: str, _: GrpcFront) -> None:
        model.raises = asyncio.CancelledError()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await posted(name, framed(b"x"))

    play(scene)


@pytest.mark.usefixtures("no_collector")
def test_a_connection_that_has_ended_leaves_nothing_to_the_collector() -> None:
    async def scene(model: Model, name: str, _: GrpcFront) -> None:
        assert b"grpc-status: 0\r\n" in await posted(name, framed(b"good"))
        while any(isinstance(each, _Connection) for each in gc.get_objects()):
            await asyncio.sleep(0.001)

    play(scene)


def test_a_text_of_any_characters_arrives() -> None:
    async def scene(model: Model, _: str, front: GrpcFront) -> None:
        model.raises = NoCapacity("100 % full\r\nx: ü\0", where="m", remedy="wait")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(ASK)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == str(model.raises)
        assert ("retry-after", "1") in tuple(caught.value.trailing_metadata())

    play(scene)


def test_haproxy_is_started_again_and_callers_wait_for_it() -> None:
    async def scene(_: Model, __: str, front: GrpcFront) -> None:
        async def call() -> None:
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{front.port}", options=options) as channel:
                await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(ASK)

        await call()
        (child,) = children()
        child.kill()
        await call()
        (other,) = children()
        assert other.pid != child.pid

    play(scene)
    assert children() == []


def test_one_that_dies_young_is_waited_for_longer_each_time() -> None:
    waits_s = list(itertools.accumulate([0.1] * 8, grpc_front.wait_s, initial=0.0))[1:]
    assert waits_s == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert grpc_front.wait_s(30.0, grpc_front.LASTED_S) == 1.0


def test_haproxy_that_dies_of_its_configuration_is_started_ever_more_rarely_and_each_death_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(grpc_front, "AGAIN_S", 0.01)
    monkeypatch.setattr(grpc_front, "_CONFIGURATION", "global\n    no such word\n")

    async def scene() -> None:
        assert HAPROXY is not None
        front = GrpcFront(HAPROXY, "127.0.0.1", 0, Behind("none", 1, 4))
        try:
            async with asyncio.timeout(30):
                while len(caplog.messages) < 3:
                    await asyncio.sleep(0.001)
        finally:
            await front.stop(0)

    asyncio.run(scene())
    for said, wait in zip(caplog.messages, ("0.01", "0.02", "0.04"), strict=False):
        assert said.startswith(f"HAProxy for gRPC ended with 1; it is started again in {wait} s: ")
        assert "unknown keyword" in said
    assert children() == []


def test_haproxy_that_cant_be_started_again_just_now_is_tried_until_it_can(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(grpc_front, "AGAIN_S", 0.01)
    pidfd_open, refusals = os.pidfd_open, [OSError(errno.EMFILE, "Too many open files")] * 2

    def refused_twice(pid: int) -> int:
        if refusals:
            raise refusals.pop()
        return pidfd_open(pid)

    async def scene() -> None:
        assert HAPROXY is not None
        front = GrpcFront(HAPROXY, "127.0.0.1", 0, Behind("none", 1, 4))
        try:
            async with asyncio.timeout(30):
                while not (first := children()):  # it is another program first, which becomes HAProxy
                    await asyncio.sleep(0.01)
                monkeypatch.setattr(os, "pidfd_open", refused_twice)
                first[0].kill()
                while refusals or children() in ([], first):
                    await asyncio.sleep(0.01)
        finally:
            await front.stop(0)

    asyncio.run(scene())
    assert [said.partition(" s: ")[0] for said in caplog.messages] == [
        "HAProxy for gRPC ended with -9; it is started again in 0.01",
        "HAProxy for gRPC could not be started; it is tried again in 0.02",
        "HAProxy for gRPC could not be started; it is tried again in 0.04",
    ]
    assert children() == []


def test_where_haproxy_cant_run_grpc_does_without_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken_haproxy(monkeypatch, tmp_path, b"#!/bin/sh\nexit 127\n")
    assert haproxy() is None
    (said,) = caplog.messages
    assert "RAY_SERVE_ENABLE_HA_PROXY=0" in said


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "haproxy" in child.name()]


def test_haproxy_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = (
        "import asyncio, pathlib, sys\n"
        "from deployments.gateway.grpc.front import *\n"
        "async def main():\n"
        "    front = GrpcFront(haproxy(), '127.0.0.1', 0, Behind('none', 1, 4))\n"
        "    async def call():\n"
        "        reader, writer = await asyncio.open_connection('127.0.0.1', front.port)\n"
        "        writer.write(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))\n"
        "        await reader.readexactly(9)\n"  # its settings: it runs
        "    await call()\n"
        "    print('up', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with told.open("w") as out, subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=out) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"up\n", told.read_text()
            (child,) = psutil.Process(parent.pid).children()
            assert child.name() == "haproxy"
        finally:
            parent.kill()
        _, alive = psutil.wait_procs([child], timeout=10)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
