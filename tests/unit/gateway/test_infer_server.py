"""Our HTTP/1.1 server for `infer`, over Unix sockets: whatever comes, the answers are those of uvicorn with the application."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import gzip
import json
import re
import socket
import struct
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.access.callers import Role, grant_of
from cluster.errors import BadInput
from deployments.gateway.access.guard import Guard
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.http.asgi import HEAD_MOST_BYTES
from deployments.gateway.http.callers import Callers
from deployments.gateway.http.server import connection
from deployments.gateway.repository import Repository
from deployments.gateway.server import GatewayServer, ServerLimits
from tests.support.access import closed, made_key
from tests.support.gateway_fakes import PATIENT, FakeControl, FakeScorer, table
from tests.support.listening import slot_in
from tests.support.waiting import within

INFER = "/v2/models/pair/infer"
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
LONG = BODY[:-1] + b', "id": "%s"}' % (b"a" * 300_000)  # more than a socket gives at once
LARGE = BODY + b" " * (2 << 20)  # read beside the loop
LIMITS = ServerLimits(max_requests=100, max_body_bytes=4 << 20, max_message_bytes=1 << 20, max_buffered_bytes=64 << 20)

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request(path: str = INFER, body: bytes = BODY, headers: Sequence[str] = (), method: str = "POST") -> bytes:
    """One request as it goes over the wire."""
    lines = (f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


@dataclass
class House:
    """A gateway over fakes."""

    folder: Path
    scorer: FakeScorer
    server: GatewayServer

    async def connect(self, way: str = "infer") -> Wire:
        return await asyncio.open_unix_connection(str(self.folder / way), limit=1 << 20)

    @property
    def connections(self) -> list[connection._Connection]:
        return list(self.server._infer.connections)


async def answer(reader: asyncio.StreamReader, *, bodiless: bool = False) -> bytes:
    """The next answer, whole, without its date."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0 if bodiless else int(head.lower().partition(b"\r\ncontent-length: ")[2].split(b"\r\n")[0])
    return undated(head) + await reader.readexactly(length)


def undated(head: bytes) -> bytes:
    """Two servers may answer in different seconds, and place the line differently."""
    told, found = re.subn(rb"date: [^\r]*GMT\r\n", b"", head)
    assert found == 1
    return told


def gateway_over(scorer: FakeScorer, limits: ServerLimits = LIMITS) -> GatewayServer:
    control = FakeControl(scorer.table)
    plane, guard = DataPlane(scorer, PATIENT), Guard(scorer, visitors=True)
    return GatewayServer(plane, Repository(scorer, control), control, guard, "0", Callers.to("gateway"), limits)


def play(scene: Callable[[House], Awaitable[None]], limits: ServerLimits = LIMITS) -> None:
    """Plays a scene with a gateway that listens."""

    async def run() -> None:
        scorer = FakeScorer(table())
        server = gateway_over(scorer, limits)
        with tempfile.TemporaryDirectory() as folder:
            await server.start(slot_in(Path(folder)))
            try:
                async with asyncio.timeout(30):
                    await scene(House(Path(folder), scorer, server))
            finally:
                await server.stop(0)
            assert server.admission.requests == server.admission.bytes == 0

    uvloop.run(run())


BINARY_TENSOR = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
BINARY_HEAD = json.dumps({"inputs": [BINARY_TENSOR], "parameters": {"binary_data_output": True}}).encode()
BINARY = request(
    body=BINARY_HEAD + np.array([1, 2], np.float32).tobytes(), headers=[f"inference-header-content-length: {len(BINARY_HEAD)}"]
)
RAW = np.array([1, 2], np.float32).tobytes()
MANY = json.dumps({"inputs": [{"name": "x", "shape": [9000, 2], "datatype": "FP32", "data": list(range(18_000))}]}).encode()
CHUNKED = b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % INFER.encode()
AT_ONCE = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
BY_SEVEN = CHUNKED + b"".join(b"%X;a=b\r\n%b\r\n" % (len(BODY[at : at + 7]), BODY[at : at + 7]) for at in range(0, len(BODY), 7))
EVERY = {
    "json": request(),
    "pinned": request("/v2/models/pair/versions/2/infer"),
    "binary": BINARY,
    "raw": request(body=RAW, headers=["inference-header-content-length: 0"]),
    "long": request(body=LONG),
    "large": request(body=LARGE),
    "stays": request(headers=["Connection: Keep-Alive"]),
    "keyed": request(headers=["X-Routing-Key: a", "x-timeout-ms: 50000"]),
    "bad json": request(body=b"{"),
    "no model": request("/v2/models/none/infer"),
    "no version": request("/v2/models/pair/versions/x/infer"),
    "query": request(INFER + "?a=b"),
    "escaped": request(INFER.replace("pair", "%70air")),
    "slashes": request(INFER.replace("pair", "/pair")),
    "whole target": request("http://there" + INFER),
    "wrong method": request(method="PUT"),
    "timeout": request(headers=["x-timeout-ms: no"]),
    "raw length": request(headers=["inference-header-content-length: no"]),
    "no body": request(body=b""),
    "no length": b"POST %b HTTP/1.1\r\nhost: x\r\n\r\n" % INFER.encode(),
    "gzip": request(body=gzip.compress(BODY), headers=["content-encoding: gzip"]),
    "gzip of two": request(body=gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]), headers=["content-encoding: gzip"]),
    "gzip of much": request(body=gzip.compress(LARGE), headers=["content-encoding: gzip"]),
    "gzip bomb": request(body=gzip.compress(BODY + b" " * (5 << 20)), headers=["content-encoding: gzip"]),
    "no gzip": request(headers=["content-encoding: gzip"]),
    "answer refused as gzip": request(body=MANY, headers=["accept-encoding: gzip;q=0.0"]),
    "wide head": request(headers=[f"x-wide: {'a' * 5000}"]),
    "too wide head": request(headers=[f"x-wide: {'a' * HEAD_MOST_BYTES}"]),
    "chunked": AT_ONCE,
    "in many chunks": BY_SEVEN + b"0\r\nx-after: 1\r\n\r\n",
    "too large": request(body=b" " * (LIMITS.max_body_bytes + 1)),
    "too large in chunks": CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % ((4 << 20) + 1, b" " * ((4 << 20) + 1)),
}
SMALL = sorted(name for name, message in EVERY.items() if len(message) < 1 << 20)
LAST = {
    "close": request(headers=["connection: close"]),
    "HTTP/1.0": request().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0 that stays": request(headers=["connection: keep-alive"]).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "too large and close": request(body=b" " * (LIMITS.max_body_bytes + 1), headers=["connection: close"]),
}
SMUGGLED = b"POST /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
BROKEN = {
    "both lengths": request(headers=["transfer-encoding: chunked"]),
    "two lengths": request(headers=["content-length: 3"]),
    "signed length": request().replace(b"content-length: ", b"content-length: +"),
    "no number": request().replace(b"content-length: ", b"content-length: 0x"),
    "list of lengths": request().replace(b"content-length: ", b"content-length: 1, "),
    "giant length": request().replace(b"content-length: ", b"content-length: 99999999999999999999"),
    "no colon": request(headers=["nothing"]),
    "space in name": request(headers=["a b: c"]),
    "space before colon": request(body=b"").replace(b"content-length:", b"content-length :"),
    "folded": request(headers=["a: b", " c"]),
    "bare CR": request(headers=["a: b\rc"]),
    "NUL": request(headers=["a: b\0c"]),
    "not HTTP": b"POST /v2/models/pair/infer\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "chunked and more": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
    "chunked before more": CHUNKED.replace(b"chunked", b"chunked, gzip") + b"0\r\n\r\n",
    "almost chunked": CHUNKED.replace(b"chunked", b"xchunked") + b"0\r\n\r\n",
    "chunked twice": CHUNKED.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n") + b"0\r\n\r\n",
    "chunked in HTTP/1.0": AT_ONCE.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "chunk of no size": CHUNKED + b"\r\n",
    "chunk of signed size": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "chunk of hexadecimal prefix": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk of giant size": CHUNKED + b"fffffffffffffffff\r\n",
    "chunk longer than it says": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "chunk ended by LF": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "chunk's data ended by LF": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "endless line of a chunk": CHUNKED + b"5;" + b"a" * 5000,
    "endless trailers": CHUNKED + b"0\r\n" + b"a: b\r\n" * 5000,
    "endless head": b"POST / HTTP/1.1\r\na: " + b"a" * (200 << 10),
}


def told(way: str, stream: bytes, pieces: Sequence[int], answers: int) -> bytes:
    """What comes back for a stream that is sent in pieces of such sizes."""
    got = b""

    async def scene(house: House) -> None:
        nonlocal got
        reader, writer = await house.connect(way)
        at = 0
        for size in pieces:
            writer.write(stream[at : at + size])
            at += size
            await asyncio.sleep(0)
        writer.write(stream[at:])
        for _ in range(answers):
            got += await answer(reader)
        writer.close()

    play(scene)
    return got


@functools.cache
def by_uvicorn(name: str) -> bytes:
    return told("http", EVERY[name], (), 1)


@pytest.mark.parametrize("name", EVERY)
def test_an_answer_is_as_uvicorns(name: str) -> None:
    got = told("infer", EVERY[name] * 2, (len(EVERY[name]),), 2)
    assert got == by_uvicorn(name) * 2


@pytest.mark.thorough
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_however_a_stream_is_cut_its_answers_come_in_order(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(SMALL), min_size=1, max_size=8))
    pieces = data.draw(st.lists(st.integers(1, 600), max_size=20))
    got = told("infer", b"".join(EVERY[name] for name in chosen), pieces, len(chosen))
    assert got == b"".join(map(by_uvicorn, chosen))


@pytest.mark.parametrize("name", LAST)
def test_what_ends_a_connection_ends_it(name: str) -> None:
    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        writer.write(request())
        first = await answer(reader)
        writer.write(LAST[name] + request())
        last = await answer(reader)
        assert await reader.read() == b""
        assert b"\r\nconnection: close\r\n" in last
        if "large" not in name:
            assert last.replace(b"connection: close\r\n", b"") == first
        writer.close()

    play(scene)


@pytest.mark.parametrize("name", BROKEN)
def test_what_could_be_read_in_two_ways_is_refused_and_nothing_after_it_is_read(name: str) -> None:
    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        writer.write(request() + BROKEN[name] + SMUGGLED)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 OK\r\n")
        refused = await answer(reader)
        assert refused.startswith(b"HTTP/1.1 431 " if name == "endless head" else b"HTTP/1.1 400 Bad Request\r\n")
        assert json.loads(refused.partition(b"\r\n\r\n")[2]).keys() == {"error"}
        assert await reader.read() == b""
        assert len(house.scorer.calls) == 1
        writer.close()

    play(scene)


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/models/pair", "/smuggled", "/v2/models/pair/infer/more"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_what_is_no_infer_is_not_found_here(path: str, method: str) -> None:
    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        writer.write(request(path, b"" if method != "POST" else b"x" * 9, method=method))
        got = await answer(reader, bodiless=method == "HEAD")
        assert got.startswith(b"HTTP/1.1 404 Not Found\r\n")
        writer.write(request())
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()

    play(scene)


def test_an_empty_line_before_a_request_and_an_offer_to_upgrade_are_passed_over() -> None:
    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        writer.write(b"\r\n" + request() + b"\r\n\r\n" + request(headers=["connection: upgrade", "upgrade: h2c"]))
        for _ in range(2):
            assert (await answer(reader)).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()

    play(scene)


def test_who_waits_for_leave_to_send_gets_it_or_the_refusal() -> None:
    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        head, _, body = request(headers=["Expect: 100-continue"]).partition(b"\r\n\r\n")
        for _ in range(2):
            writer.write(head + b"\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert (await answer(reader)).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.write(head.replace(b"content-length: ", b"content-length: 9999999") + b"\r\n\r\n")
        refused = await answer(reader)
        assert refused.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nconnection: close\r\n" in refused
        assert await reader.read() == b""
        writer.close()

    play(scene)


@pytest.mark.parametrize("way", ["infer", "http"])
def test_a_client_that_hangs_up_ends_its_work(way: str) -> None:
    async def scene(house: House) -> None:
        house.scorer.gate.clear()
        _, writer = await house.connect(way)
        writer.write(request())
        while not house.scorer.calls:
            await asyncio.sleep(0.001)
        writer.close()
        while not house.scorer.ended:
            await asyncio.sleep(0.001)
        while house.server.requests_under_way:
            await asyncio.sleep(0.001)

    play(scene)


@pytest.mark.parametrize("message", [request(), AT_ONCE], ids=["sized", "chunked"])
def test_a_client_that_hangs_up_before_its_work_begins_leaves_nothing_counted(message: bytes) -> None:
    async def scene(house: House) -> None:
        _, writer = await house.connect()
        while not house.connections:
            await asyncio.sleep(0.001)
        (one,) = house.connections
        transport = one._transport
        one.data_received(message)  # as the loop tells it, with nothing between
        one.connection_lost(None)
        await asyncio.sleep(0.01)
        assert house.scorer.calls == []
        assert house.server.admission.requests == house.server.admission.bytes == 0
        one.connection_made(transport)  # type: ignore[arg-type]
        writer.close()

    play(scene)


def test_a_client_that_hangs_up_while_it_sends_frees_its_bytes() -> None:
    async def scene(house: House) -> None:
        _, writer = await house.connect()
        writer.write(request(body=LONG)[:-1])
        while house.server.admission.bytes < len(LONG) - 1:
            await asyncio.sleep(0.001)
        writer.close()
        while house.server.admission.bytes:
            await asyncio.sleep(0.001)

    play(scene)


def test_who_waits_for_work_that_is_given_up_does_not_wait_for_ever() -> None:
    async def scene(house: House) -> None:
        house.scorer.failure = asyncio.CancelledError()  # type: ignore[assignment]
        reader, writer = await house.connect()
        writer.write(request())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await answer(reader)
        assert house.server.requests_under_way == 0
        writer.close()

    play(scene)


@pytest.mark.thorough
@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("abruptly", [False, True])
def test_a_connection_that_has_ended_leaves_nothing_to_the_collector(abruptly: bool) -> None:
    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        for message in (request(), AT_ONCE, EVERY["too large"]):
            writer.write(message)
            await answer(reader)
        if abruptly:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.write(request())
        writer.close()
        while any(isinstance(each, connection._Connection) for each in gc.get_objects()):
            await asyncio.sleep(0.001)

    play(scene)


def test_too_many_are_refused_at_once_however_they_come() -> None:
    async def scene(house: House) -> None:
        house.scorer.gate.clear()
        (first, to_first), (second, to_second), (other, to_other) = [
            await house.connect(way) for way in ("infer", "infer", "http")
        ]
        to_first.write(request())
        while not house.scorer.calls:
            await asyncio.sleep(0.001)
        assert house.server.requests_under_way == 1
        to_second.write(request() + request())
        to_other.write(request("/v2", b"", method="GET"))
        for reader in (second, second, other):
            refused = await answer(reader)
            assert refused.startswith(b"HTTP/1.1 503 Service Unavailable")
            assert b"retry-after: 1" in refused
        to_second.write(request("/-/healthz", b"", method="GET"))
        assert (await answer(second)).startswith(b"HTTP/1.1 200 OK")  # it is busy, not ill
        house.scorer.gate.set()
        assert (await answer(first)).startswith(b"HTTP/1.1 200 OK")
        to_second.write(request())
        assert (await answer(second)).startswith(b"HTTP/1.1 200 OK")
        for writer in (to_first, to_second, to_other):
            writer.close()

    play(scene, ServerLimits(max_requests=1))


@pytest.mark.parametrize("way", ["infer", "http"])
@pytest.mark.parametrize("chunked", [False, True])
def test_bytes_are_bounded_in_all_and_not_only_of_each_request(way: str, chunked: bool) -> None:
    async def scene(house: House) -> None:
        (first, to_first), (second, to_second) = await house.connect(way), await house.connect(way)
        to_first.write(request(body=LONG)[:-1])
        while house.server.admission.bytes < len(LONG) - 1:
            await asyncio.sleep(0.001)
        to_second.write(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(LONG), LONG) if chunked else request(body=LONG))
        refused = await answer(second)
        assert refused.startswith(b"HTTP/1.1 503 Service Unavailable")
        assert b"retry-after: 1" in refused
        assert b"bytes in all are under way" in refused
        to_first.write(LONG[-1:])
        assert (await answer(first)).startswith(b"HTTP/1.1 200 OK")
        to_second.write(request(body=LONG))
        assert (await answer(second)).startswith(b"HTTP/1.1 200 OK")
        to_first.write(request(body=gzip.compress(BODY + b" " * 700_000), headers=["content-encoding: gzip"]))
        assert (await answer(first)).startswith(b"HTTP/1.1 503 ")  # inflated it is
        for writer in (to_first, to_second):
            writer.close()

    play(scene, ServerLimits(max_buffered_bytes=500_000))


LARGE_BINARY_TENSOR = {"name": "x", "shape": [150_000, 2], "datatype": "FP32", "parameters": {"binary_data_size": 1_200_000}}
LARGE_BINARY_HEAD = json.dumps({"inputs": [LARGE_BINARY_TENSOR], "outputs": [{"name": "sum"}]}).encode()
LARGE_BINARY = request(
    body=LARGE_BINARY_HEAD + bytes(1_200_000), headers=[f"inference-header-content-length: {len(LARGE_BINARY_HEAD)}"]
)


@pytest.mark.parametrize("way", ["infer", "http"])
@pytest.mark.parametrize(
    ("message", "beside"),
    [
        (request(), []),
        (BINARY, []),
        (request(body=LONG), []),
        (EVERY["gzip"], []),
        (request(body=LARGE), ["_whole", "_read"]),
        (EVERY["gzip of much"], ["inflate", "_read"]),
        (LARGE_BINARY, ["_whole", "_read", "_reply"]),
    ],
    ids=["small", "binary", "long", "gzip", "large", "gzip of much", "large answer"],
)
def test_what_is_large_is_read_and_written_beside_the_loop_and_nothing_else(way: str, message: bytes, beside: list[str]) -> None:
    async def scene(house: House) -> None:
        ran, run = [], house.server._large.run

        async def noted(work: Any, *args: Any) -> Any:
            ran.append(work.__name__)
            return await run(work, *args)

        house.server._large.run = noted  # type: ignore[method-assign,assignment]
        reader, writer = await house.connect(way)
        writer.write(message)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert ran == beside
        writer.close()

    play(scene)


@pytest.mark.thorough
def test_a_body_of_tiny_chunks_takes_no_more_memory_than_is_counted() -> None:
    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        writer.write(CHUNKED + b"1\r\n \r\n" * 300_000)
        while house.server.admission.bytes < 300_000:
            await asyncio.sleep(0.001)
        (one,) = house.connections
        assert one._reading is not None
        assert len(one._reading[2].pieces) < 30
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()

    play(scene)


@pytest.mark.parametrize("begun", [request()[:30], request()[:-5], request(body=LONG)[:-5]], ids=["head", "body", "long"])
def test_who_sends_too_slowly_is_refused_and_who_works_or_is_idle_is_not(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PACE_S", 0.05)

    async def scene(house: House) -> None:
        (slow, to_slow), (idle, to_idle), (working, to_working) = [await house.connect() for _ in range(3)]
        to_slow.write(begun)
        house.scorer.gate.clear()
        to_working.write(request())
        assert (await answer(slow)).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert await slow.read() == b""
        house.scorer.gate.set()
        assert (await answer(working)).startswith(b"HTTP/1.1 200 OK\r\n")
        to_idle.write(request())
        assert (await answer(idle)).startswith(b"HTTP/1.1 200 OK\r\n")
        for writer in (to_slow, to_idle, to_working):
            writer.close()

    play(scene)


def test_a_gateway_that_stops_answers_what_it_has() -> None:
    async def scene(house: House) -> None:
        house.scorer.gate.clear()
        (working, to_working), (half, to_half), (idle, to_idle) = [await house.connect() for _ in range(3)]
        (other, to_other) = await house.connect("http")
        to_half.write(request()[:-5])
        to_other.write(request())
        to_working.write(request())
        while house.server.requests_under_way < 2 or not any(each._reading for each in house.connections):
            await asyncio.sleep(0.001)
        stops = [asyncio.create_task(house.server.stop(20)) for _ in range(2)]
        assert await idle.read() == b""
        with pytest.raises(OSError, match=r"refused|No such"):
            await house.connect()
        house.scorer.gate.set()
        to_half.write(request()[-5:])
        for reader in (working, half, other):
            last = await reader.read()
            assert last.startswith(b"HTTP/1.1 200 OK")
            assert b"connection: close" in last or reader is other
        await asyncio.gather(*stops)
        for writer in (to_working, to_half, to_idle, to_other):
            writer.close()

    play(scene)


def test_what_is_not_answered_in_time_is_given_up_at_the_end() -> None:
    async def scene(house: House) -> None:
        house.scorer.gate.clear()
        (one, to_one), (other, to_other) = await house.connect(), await house.connect("http")
        for writer in (to_one, to_other):
            writer.write(request())
        while house.server.requests_under_way < 2:
            await asyncio.sleep(0.001)
        await house.server.stop(0.1)
        assert house.server.requests_under_way == 0
        assert await one.read() == b""
        await other.read()
        for writer in (to_one, to_other):
            writer.close()

    play(scene)


def test_who_does_not_read_is_not_read() -> None:
    """Answers that nobody takes would pile up."""
    many = 400

    async def scene(house: House) -> None:
        reader, writer = await house.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        sent = asyncio.create_task(_send(writer, [request(body=LONG)] * many))
        while not house.connections:
            await asyncio.sleep(0.001)
        (one,) = house.connections
        while not one._paused:
            await asyncio.sleep(0.001)
        assert 0 < len(house.scorer.calls) < many
        assert one._transport is not None
        assert one._transport.get_write_buffer_size() < 4 * len(LONG)
        assert house.server.admission.bytes > 0  # what is written and not read counts
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


def test_what_comes_before_its_turn_is_bounded() -> None:
    async def scene(house: House) -> None:
        house.scorer.gate.clear()
        reader, writer = await house.connect()
        many = 2000
        sent = asyncio.create_task(_send(writer, [request(body=LONG)] * many))
        while not house.scorer.calls:
            await asyncio.sleep(0.001)
        (one,) = house.connections
        while one._transport is None or one._transport.is_reading():
            await asyncio.sleep(0.001)
        for _ in range(100):  # and it stays so
            await asyncio.sleep(0)
        assert not one._transport.is_reading()
        assert sum(map(len, one._early)) < 2 * len(LONG)
        assert house.server.requests_under_way == 1
        assert not sent.done()
        sent.cancel()
        writer.close()
        reader.feed_eof()

    play(scene)


def test_a_websocket_is_refused_in_words_and_its_connection_ended(caplog: pytest.LogCaptureFixture) -> None:
    key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="
    asked = ["connection: Upgrade", "upgrade: WebSocket", key, "sec-websocket-version: 13"]

    async def scene(house: House) -> None:
        reader, writer = await house.connect("http")
        writer.write(request("/v2", b"", headers=asked, method="GET").replace(b"content-length: 0\r\n", b""))
        refused = await answer(reader)
        assert refused.startswith(b"HTTP/1.1 400 ")
        assert "no WebSocket is served here" in json.loads(refused.partition(b"\r\n\r\n")[2])["error"]
        assert await reader.read() == b""
        writer.close()

    play(scene)
    assert caplog.records == []


@pytest.mark.parametrize("offer", ["h2c", "websocket", "anything"])
@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_an_offer_to_upgrade_smuggles_no_request_in_its_body(offer: str, pause_s: float) -> None:
    async def scene(house: House) -> None:
        reader, writer = await house.connect("http")
        inner = request("/v2/models/pair", b"", method="GET")
        head, _, body = request("/v1/models/pair:predict", inner, ["connection: Upgrade", f"upgrade: {offer}"]).partition(
            b"\r\n\r\n"
        )
        writer.write(head + b"\r\n\r\n")
        await asyncio.sleep(pause_s)
        writer.write(body)
        assert (await answer(reader)).startswith(b"HTTP/1.1 400 ")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()

    play(scene)


def test_without_a_door_loopback_is_served_by_uvicorn_and_grpc_aio_and_nothing_else_is() -> None:
    async def run() -> None:
        scorer = FakeScorer(table())
        server = gateway_over(scorer)
        with pytest.raises(BadInput, match="loopback"):
            await server.listen("0.0.0.0", 0, 0)  # noqa: S104 (refused)
        port, grpc_port = await server.listen("127.0.0.1", 0, 0)
        try:
            assert grpc_port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for message in (request(), BINARY, request("/v2", b"", method="GET"), request(body=LARGE)):
                writer.write(message)
                assert (await answer(reader)).startswith(b"HTTP/1.1 200 OK\r\n")
            house_answer = by_uvicorn("json")
            writer.write(request())
            assert await answer(reader) == house_answer
            scorer.gate.clear()
            writer.write(request())
            while not server.requests_under_way:
                await asyncio.sleep(0.001)
            writer.close()
            while server.requests_under_way:  # hanging up ends the work here as well
                await asyncio.sleep(0.001)
            assert scorer.ended == 1
        finally:
            await server.stop(0)
            await server.stop(0)

    by_uvicorn("json")
    asyncio.run(within(60, run()))


def test_who_is_revoked_while_his_request_comes_is_not_answered() -> None:
    key = made_key("team", grant_of([Role.SCORE], "pair"))

    async def scene(house: House) -> None:
        house.scorer.table = closed(table(), key)
        reader, writer = await house.connect()
        asked = request(headers=[f"authorization: {key.bearer['authorization']}"])
        writer.write(asked)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 ")
        writer.write(asked[:-1])
        while not any(one._reading for one in house.connections):
            await asyncio.sleep(0)
        house.scorer.table = closed(table())
        writer.write(asked[-1:])
        assert (await answer(reader)).startswith(b"HTTP/1.1 401 ")
        house.scorer.table = closed(table(), key)
        writer.write(asked)  # and the connection goes on
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 ")
        writer.close()

    play(scene)
