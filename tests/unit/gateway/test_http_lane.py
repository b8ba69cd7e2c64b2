"""`infer` on uvicorn's own connections, over sockets: whatever comes, the client must not be able to tell who answered it."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import struct
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import uvicorn
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.gateway.batcher import BatchLimits
from deployments.gateway.http import lane as http_lane
from deployments.gateway.http.asgi import Reply
from deployments.gateway.http.direct_lane import DirectLane, middlewares
from deployments.gateway.http.infer import InferHead
from tests.support.gateway_fakes import PATIENT, FakeControl, FakeScorer, gateway, table

INFER = "/v2/models/pair/infer"
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
LONG = BODY[:-1] + b', "id": "%s"}' % (b"a" * 300_000)  # more than a socket gives at once


def request(path: str = INFER, body: bytes = BODY, headers: Sequence[str] = (), method: str = "POST") -> bytes:
    """One request as it goes over the wire."""
    lines = (f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


@dataclass
class House:
    """A server with a gateway over fakes. `by_lane` holds the bodies that the lane answered."""

    scorer: FakeScorer
    lane: DirectLane
    server: uvicorn.Server
    by_lane: list[bytes] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that the lane has taken over, if it is open."""
        reader, writer = await asyncio.open_connection(*self.server.servers[0].sockets[0].getsockname())
        writer.write(request("/v2/health/live", b"", method="GET"))
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 OK")
        return reader, writer


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The next answer, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def play(
    scene: Callable[[House], Awaitable[None]],
    *,
    limits: BatchLimits = PATIENT,
    keep_alive_s: int = 60,
    max_ongoing: int = 100,
    is_open: bool = True,
) -> None:
    """Plays a scene with a server like Serve's, whose lane is open unless told otherwise."""

    async def run() -> None:
        scorer = FakeScorer(table())
        app = gateway(scorer, FakeControl(scorer.table), limits)

        async def infer(head: InferHead, body: memoryview) -> Reply:
            house.by_lane.append(bytes(body))
            return await app.infer(head, body)

        lane = DirectLane(app, infer, max_ongoing)
        if is_open:
            await lane.open()
        fork = middlewares()[0].cls(app)
        config = uvicorn.Config(fork, port=0, lifespan="off", log_level="critical", timeout_keep_alive=keep_alive_s)
        config.date_header = False
        house = House(scorer, lane, uvicorn.Server(config))
        serving = asyncio.create_task(house.server.serve())
        try:
            async with asyncio.timeout(60):
                while not house.server.started:
                    await asyncio.sleep(0.001)
                await scene(house)
        finally:
            house.server.should_exit = True
            house.server.force_exit = True
            await serving
            await lane.close()

    uvloop.run(run())


BINARY_TENSOR = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
BINARY_HEAD = json.dumps({"inputs": [BINARY_TENSOR], "parameters": {"binary_data_output": True}}).encode()
BINARY = request(
    body=BINARY_HEAD + np.array([1, 2], np.float32).tobytes(), headers=[f"inference-header-content-length: {len(BINARY_HEAD)}"]
)
FOR_THE_LANE = {
    "json": request(),
    "pinned": request("/v2/models/pair/versions/2/infer"),
    "binary": BINARY,
    "long": request(body=LONG),
    "stays": request(headers=["Connection: Keep-Alive"]),
    "keyed": request(headers=["X-Routing-Key: a", "x-timeout-ms: 50000"]),
    "bad json": request(body=b"{"),
    "no model": request("/v2/models/none/infer"),
    "no version": request("/v2/models/pair/versions/x/infer"),
}
CHUNKED = b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
FOR_UVICORN = {
    "index": request("/v2", b"", method="GET"),
    "query": request(INFER + "?a=b"),
    "escaped": request(INFER.replace("pair", "%70air")),
    "slashes": request(INFER.replace("pair", "/pair")),
    "wrong method": request(method="PUT"),
    "v1": request("/v1/models/pair:predict", b'{"instances": [[1, 2]]}'),
    "timeout": request(headers=["x-timeout-ms: no"]),
    "raw length": request(headers=["inference-header-content-length: no"]),
    "no body": request(body=b""),
    "large": request(body=BODY + b" " * http_lane.BODY_MOST_BYTES),
    "wide head": request(headers=[f"x-wide: {'a' * http_lane.HEAD_MOST_BYTES}"]),
    "chunked": CHUNKED % (INFER.encode(), len(BODY), BODY),
}
EVERY = {**FOR_THE_LANE, **FOR_UVICORN}
LAST = {
    "close": request(headers=["connection: close"]),
    "HTTP/1.0": request().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "both lengths": request(headers=["transfer-encoding: chunked"]),
    "two lengths": request(headers=["content-length: 3"]),
    "signed length": request().replace(b"content-length: ", b"content-length: +"),
    "no colon": request(headers=["nothing"]),
    "space in name": request(headers=["a b: c"]),
    "not HTTP": b"POST /v2/models/pair/infer\r\n\r\n",
}


def told(stream: bytes, pieces: Sequence[int], answers: int, *, is_open: bool) -> tuple[bytes, int]:
    """What comes back for a stream that is sent in pieces of such sizes, and how many requests the lane answered."""
    got = b""
    by_lane = 0

    async def scene(house: House) -> None:
        nonlocal got, by_lane
        reader, writer = await house.connect()
        at = 0
        for size in pieces:
            writer.write(stream[at : at + size])
            at += size
            await asyncio.sleep(0)
        writer.write(stream[at:])
        for _ in range(answers):
            got += await answer(reader)
        writer.close()
        by_lane = len(house.by_lane)

    play(scene, is_open=is_open)
    return got, by_lane


@functools.cache
def by_uvicorn(name: str) -> bytes:
    """What is answered where the lane is closed."""
    got, by_lane = told(EVERY[name], (), 1, is_open=False)
    assert by_lane == 0
    return got


@pytest.mark.parametrize("name", EVERY)
def test_an_answer_is_the_same_by_the_lane(name: str) -> None:
    got, by_lane = told(EVERY[name] * 2, (len(EVERY[name]),), 2, is_open=True)
    assert got == by_uvicorn(name) * 2
    assert by_lane == (2 if name in FOR_THE_LANE else 0)


@pytest.mark.parametrize("name", LAST)
def test_what_ends_a_connection_ends_it(name: str) -> None:
    ends: list[bytes] = []

    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        writer.write(request())
        got = await answer(reader)
        writer.write(LAST[name])
        ends.append(got + await reader.read())
        writer.close()
        assert len(house.by_lane) == house.lane._infers.is_open

    play(scene, is_open=False)
    play(scene)
    assert ends[0] == ends[1]


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_however_a_stream_is_cut_its_answers_come_in_order(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(sorted(EVERY)), min_size=1, max_size=8))
    pieces = data.draw(st.lists(st.integers(1, 600), max_size=20))
    got, _ = told(b"".join(EVERY[name] for name in chosen), pieces, len(chosen), is_open=True)
    assert got == b"".join(map(by_uvicorn, chosen))


@pytest.mark.parametrize("names", ["_OF_PROTOCOL", "_OF_CYCLE", "_OF_FLOW"])
def test_where_uvicorn_is_not_as_known_its_connections_stay_its_own(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_lane, names, (*getattr(http_lane, names), "something_else"))
    assert told(request(), (), 1, is_open=True) == (by_uvicorn("json"), 0)


def test_a_client_that_hangs_up_ends_its_work() -> None:
    async def scene(house: House) -> None:
        house.scorer.gate.clear()
        _, writer = await house.connect()
        writer.write(request())
        while not house.scorer.calls:
            await asyncio.sleep(0)
        writer.close()
        while not house.scorer.ended:
            await asyncio.sleep(0.001)
        assert house.lane._room.taken == 0

    play(scene)


def test_who_waits_for_work_that_is_given_up_does_not_wait_for_ever() -> None:
    async def scene(house: House) -> None:
        house.scorer.failure = asyncio.CancelledError()  # type: ignore[assignment]
        reader, writer = await house.connect()
        writer.write(request())
        assert await reader.read() == b""
        assert house.lane._room.taken == 0
        writer.close()

    play(scene)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("abruptly", [False, True])
def test_a_connection_that_has_ended_leaves_nothing_to_the_collector(abruptly: bool) -> None:
    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        writer.write(request())
        await answer(reader)
        (connection,) = house.server.server_state.connections
        assert isinstance(connection, http_lane._Connection)
        ended, its_uvicorn = weakref.ref(connection), weakref.ref(connection._uvicorn)
        del connection
        if abruptly:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        while ended() is not None or its_uvicorn() is not None:
            await asyncio.sleep(0.001)

    play(scene)


def test_too_many_are_refused_at_once_however_they_come() -> None:
    async def scene(house: House) -> None:
        house.scorer.gate.clear()
        (first, to_first), (second, to_second) = await house.connect(), await house.connect()
        to_first.write(request())
        while not house.scorer.calls:
            await asyncio.sleep(0)
        to_second.write(request() + request() + request("/v2", b"", method="GET"))
        for _ in range(3):
            refused = await answer(second)
            assert refused.startswith(b"HTTP/1.1 503 Service Unavailable")
            assert b"retry-after: 1" in refused
        house.scorer.gate.set()
        assert (await answer(first)).startswith(b"HTTP/1.1 200 OK")
        to_second.write(request("/v2", b"", method="GET"))
        assert (await answer(second)).startswith(b"HTTP/1.1 200 OK")
        for writer in (to_first, to_second):
            writer.close()

    play(scene, max_ongoing=1)


def test_a_server_that_stops_answers_what_it_has() -> None:
    async def scene(house: House) -> None:
        house.scorer.gate.clear()
        (working, to_working), (half, to_half), (idle, to_idle) = [await house.connect() for _ in range(3)]
        for writer in (to_idle, to_half):  # so all three were the lane's last
            house.scorer.gate.set()
            writer.write(request())
        for reader in (idle, half):
            await answer(reader)
        house.scorer.gate.clear()
        to_half.write(request()[:-5])
        to_working.write(request())
        while len(house.by_lane) < 3:
            await asyncio.sleep(0)
        house.server.should_exit = True
        assert await idle.read() == b""
        house.scorer.gate.set()
        to_half.write(request()[-5:])
        for reader in (working, half):
            last = await reader.read()
            assert last.startswith(b"HTTP/1.1 200 OK")
            assert b"connection: close" in last
        for writer in (to_working, to_half, to_idle):
            writer.close()

    play(scene)


def test_only_an_idle_connection_is_closed_in_time() -> None:
    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        house.scorer.gate.clear()
        writer.write(request())
        idle, other = await house.connect()
        assert await idle.read() == b""  # by then the first has been at work for as long
        other.close()
        house.scorer.gate.set()
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 OK")
        assert await reader.read() == b""
        writer.close()

    play(scene, keep_alive_s=1)


def test_who_does_not_read_is_not_read() -> None:
    """Answers that nobody takes would pile up."""
    many = 400

    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        message = request(body=LONG)
        sent = asyncio.create_task(_send(writer, [message] * many))
        (connection,) = house.server.server_state.connections
        assert isinstance(connection, http_lane._Connection)
        while not connection._uvicorn.flow.write_paused:
            await asyncio.sleep(0.001)
        assert 0 < len(house.by_lane) < many
        assert connection._transport.get_write_buffer_size() < 4 * len(LONG)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(many):
            assert (await answer(reader)).startswith(b"HTTP/1.1 200 OK")
        await sent
        writer.close()

    play(scene)


async def _send(writer: asyncio.StreamWriter, messages: Sequence[bytes]) -> None:
    for message in messages:
        writer.write(message)
        await writer.drain()


def test_once_the_lane_is_closed_uvicorn_has_its_connections_again() -> None:
    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        for is_open, by_lane in ((True, 1), (False, 1)):
            if not is_open:
                await house.lane.close()
            writer.write(request())
            assert (await answer(reader)).startswith(b"HTTP/1.1 200 OK")
            assert len(house.by_lane) == by_lane
        writer.close()

    play(scene)
