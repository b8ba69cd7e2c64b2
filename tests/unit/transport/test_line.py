"""Lines without Serve: both ends on one loop, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.common import DeploymentID, ReplicaID

from cluster.errors import NoCapacity
from deployments.engines.datatypes import NUMPY, Array
from deployments.transport.lines import client, serve_book
from deployments.transport.lines.client import Declined, Line, Lines, LineState, ReplicaGone, StandsStill
from deployments.transport.lines.frames import STAGED_BYTES, Ask, Broken, Frames, Reply, Word, packed, unpacked
from deployments.transport.lines.server import LineServer, address

pytestmark = pytest.mark.anyio
REPLICA = ReplicaID("r1", DeploymentID("replicas", "m--v1"))


class Book:
    """Counts calls under way, as Serve's handle does."""

    def __init__(self) -> None:
        self.under_way = 0
        self.doubted: list[ReplicaID] = []

    def began(self, _: ReplicaID) -> None:
        self.under_way += 1

    def ended(self, _: ReplicaID) -> None:
        self.under_way -= 1

    def doubt(self, replica: ReplicaID) -> None:
        self.doubted.append(replica)


class Replica:
    """Answers with the sum of each row, once `go` is set."""

    def __init__(self, most: int = 4) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.begun = 0
        self.cancelled = 0
        self.answered: list[str | None] = []
        self.raises: Exception | None = None
        self.server = LineServer(self.score, most, lambda _, raised: self.answered.append(raised))
        self.name = uuid.uuid4().hex

    async def score(self, tensors: dict[str, Array], timeout_s: float) -> Reply:
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.raises is not None:
            raise self.raises
        return {"y": tensors["x"].sum(axis=1)}, [], []


@asynccontextmanager
async def replica(most: int = 4) -> AsyncIterator[tuple[Replica, Line, Book]]:
    """A replica and a line to it."""
    there, book = Replica(most), Book()
    await there.server.open(there.name)
    line = Line(book, REPLICA, 8)  # type: ignore[arg-type]
    await line.connect(there.name)
    await until(lambda: line.fit)
    try:
        yield there, line, book
    finally:
        there.go.set()
        line.leave()
        await there.server.close()


async def under_way(there: Replica, line: Line, timeout_s: float = 60.0) -> asyncio.Task[Reply | Broken]:
    """A call that the replica has begun, and will not end before it is told to go."""
    there.go.clear()
    begun = there.begun
    call = asyncio.create_task(line.score(x(2), timeout_s))
    await until(lambda: there.begun == begun + 1)
    return call


async def until(what: Any) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.001)


def x(rows: int, width: int = 3) -> Mapping[str, Array]:
    return {"x": np.arange(rows * width, dtype=np.float32).reshape(rows, width)}


@pytest.mark.thorough
@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=6), st.integers(1, 300_000))
def test_messages_arrive_whole_however_the_bytes_are_cut(sizes: list[int], chunk: int) -> None:
    heard: list[tuple[int, Any]] = []
    frames = Frames(lambda _, call, message: heard.append((call, message)), lambda _: None)
    sent = [
        {"a": np.random.default_rng(size).integers(0, 255, size, np.uint8), "b": np.array([b"x", b""], np.object_)}
        for size in sizes
    ]
    stream = b"".join(bytes(piece) for call, message in enumerate(sent) for piece in packed(call, message))
    at = 0
    while at < len(stream):
        buffer = frames.get_buffer(-1)
        size = min(len(buffer), chunk, len(stream) - at)
        buffer[:size] = stream[at : at + size]
        frames.buffer_updated(size)
        at += size
    assert [call for call, _ in heard] == list(range(len(sizes)))
    for (_, got), want in zip(heard, sent, strict=True):
        np.testing.assert_array_equal(got["a"], want["a"])
        assert got["b"].tolist() == [b"x", b""]
        got["a"][:1] = 0  # its reader may write to it


async def test_calls_share_a_line_and_serve_counts_them() -> None:
    async with replica() as (there, line, book):
        there.go.clear()
        calls = [asyncio.create_task(line.score(x(rows), 10.0)) for rows in (1, 2, 100_000)]
        await until(lambda: there.begun == 3)
        assert (line.under_way, book.under_way) == (3, 3)
        there.go.set()
        for rows, answer in zip((1, 2, 100_000), await asyncio.gather(*calls), strict=True):
            assert not isinstance(answer, Broken)
            np.testing.assert_array_equal(answer[0]["y"], x(rows)["x"].sum(axis=1))
        assert x(100_000)["x"].nbytes > STAGED_BYTES
        assert (line.under_way, book.under_way, there.answered) == (0, 0, [None] * 3)


async def test_a_full_replica_declines() -> None:
    async with replica(most=1) as (there, line, book):
        first = await under_way(there, line)
        with pytest.raises(Declined):
            await line.score(x(1), 10.0)
        assert line.fit
        there.go.set()
        await first
        assert book.under_way == 0


async def test_a_replica_that_stops_answers_what_it_took_and_takes_no_more() -> None:
    async with replica() as (there, line, _):
        taken = await under_way(there, line)
        closing = asyncio.create_task(there.server.close())
        await until(lambda: not line.fit)
        with pytest.raises(Declined):
            await line.score(x(1), 10.0)
        assert not closing.done()
        there.go.set()
        answer = await taken
        assert not isinstance(answer, Broken)
        await closing
        line._heard(line._frames, 0, Word.READY)  # too late: it stopped
        assert line.state is LineState.ENDED


async def test_what_the_replica_raises_is_told() -> None:
    async with replica() as (there, line, _):
        there.raises = NoCapacity("no room", where="m", remedy="retry")
        answer = await line.score(x(1), 10.0)
        assert isinstance(answer, Broken)
        assert str(answer.refusal) == "m: no room (retry)"
        there.raises = ZeroDivisionError("oh")
        answer = await line.score(x(1), 10.0)
        assert answer == Broken("ZeroDivisionError")  # its words may quote what was sent
        assert there.answered == ["NoCapacity", "ZeroDivisionError"]


async def test_a_call_that_is_late_or_given_up_ends_at_the_replica_too() -> None:
    async with replica() as (there, line, book):
        given_up = await under_way(there, line)
        given_up.cancel()
        await until(lambda: there.cancelled == 1)
        assert line.fit
        with pytest.raises(TimeoutError):
            await line.score(x(1), 0.01)
        await until(lambda: there.cancelled == 2)
        assert line.state is LineState.ENDED  # whether the replica lives, another line tells
        assert book.under_way == 0


async def test_the_death_of_a_replica_is_known_at_once() -> None:
    async with replica() as (there, line, book):
        call = await under_way(there, line)
        for frames in list(there.server._lines):
            frames.abort()
        with pytest.raises(ReplicaGone):
            await call
        assert line.state is LineState.ENDED
        assert book.under_way == 0
        with pytest.raises(Declined):  # told, not waited for
            await line.score(x(1), 60.0)


async def test_who_calls_a_replica_that_stands_still_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOOK_EVERY_S", 0.01)
    async with replica() as (there, line, book):
        call = await under_way(there, line)
        monkeypatch.setattr(there.server, "_heard", lambda *_: None)
        for frames in there.server._lines:
            monkeypatch.setattr(frames, "_heard", lambda *_: None)
        with pytest.raises(StandsStill):
            await call
        assert (line.state, book.under_way, book.doubted) == (LineState.ENDED, 0, [REPLICA])
        await until(lambda: there.cancelled == 1)  # as soon as it goes on


async def test_a_replica_that_takes_its_time_does_not_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOOK_EVERY_S", 0.05)
    asked = 0

    class Asked(LineServer):
        def _tell(self, line: Frames) -> None:
            nonlocal asked
            asked += 1
            super()._tell(line)

    monkeypatch.setattr(f"{__name__}.LineServer", Asked)
    async with replica() as (there, line, book):
        call = await under_way(there, line)
        await until(lambda: asked > 3 * client.SILENCES_MOST)
        there.go.set()
        assert not isinstance(await call, Broken)
        assert (line.fit, book.doubted) == (True, [])


async def test_a_caller_that_goes_frees_its_calls() -> None:
    async with replica() as (there, line, _):
        call = await under_way(there, line)
        line._frames.abort()
        await until(lambda: there.cancelled == 1)
        with pytest.raises(ReplicaGone):
            await call


async def test_a_frame_of_no_size_ends_the_line() -> None:
    async with replica() as (there, line, _):
        transport = line._frames._transport
        assert transport is not None
        transport.write(bytes(64))
        await until(lambda: not there.server._lines)
        await until(lambda: line.state is LineState.ENDED)


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> str:
    """This process's node, and tries that need no second's wait."""
    monkeypatch.setattr(client, "own_node", lambda: "here")
    monkeypatch.setattr(client, "TRY_AGAIN_S", 0.0)
    monkeypatch.setattr(serve_book, "line_name", lambda _node, replica: replica.unique_id)
    return "here"


def handle(replicas: Mapping[ReplicaID, Any]) -> Any:
    counts = SimpleNamespace(
        inc_num_running_requests_for_replica=lambda _: None, dec_num_running_requests_for_replica=lambda _: None
    )
    chooser = SimpleNamespace(curr_replicas=replicas)
    inner = SimpleNamespace(_request_router=chooser, _metrics_manager=counts)
    return SimpleNamespace(_router=SimpleNamespace(_asyncio_router=inner))


async def test_the_replica_with_the_fewest_calls_is_picked_and_serve_chooses_where_some_are_far(near: str) -> None:
    there = [Replica(), Replica()]
    ids = []
    for one in there:
        await one.server.open(one.name)
        ids.append(ReplicaID(one.name, REPLICA.deployment_id))
    told = dict.fromkeys(ids, SimpleNamespace(node_id=near, max_ongoing_requests=2))
    serve = handle(told)
    lines = Lines(serve)
    try:
        assert lines.pick() is None  # not yet
        await until(lambda: lines.pick() is not None and len([1 for line in lines._lines.values() if line.fit]) == 2)
        for one in there:
            one.go.clear()
        calls = []
        for _ in range(4):
            picked = lines.pick()
            assert picked is not None
            calls.append(asyncio.create_task(picked.score(x(1), 10.0)))
            await asyncio.sleep(0)
        await until(lambda: [one.begun for one in there] == [2, 2])
        assert lines.pick() is None  # all are full: Serve queues
        for one in there:
            one.go.set()
        await asyncio.gather(*calls)
        far = ReplicaID("far", REPLICA.deployment_id)
        serve._router._asyncio_router._request_router.curr_replicas = told | {
            far: SimpleNamespace(node_id="there", max_ongoing_requests=2)
        }
        there[0].go.clear()
        there[1].go.clear()
        for _ in range(2):
            picked = lines.pick()
            assert picked is not None
            calls.append(asyncio.create_task(picked.score(x(1), 10.0)))
            await asyncio.sleep(0)
        assert lines.pick() is None  # those here have a call each; the far one may have none
        serve._router._asyncio_router._request_router.curr_replicas = {}
        assert lines.pick() is None
        there[0].go.set()
        there[1].go.set()
        await asyncio.gather(*calls)  # also on lines to replicas that are no longer told of
        await until(lambda: not there[0].server._lines and not there[1].server._lines)
    finally:
        lines.close()
        for one in there:
            await one.server.close()


async def test_a_replica_that_says_nothing_is_no_reason_to_ask_serve(near: str) -> None:
    there, still = Replica(), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    ids = [ReplicaID(name, REPLICA.deployment_id) for name in (there.name, uuid.uuid4().hex)]
    await there.server.open(there.name)
    still.bind(address(ids[1].unique_id))
    still.listen()
    lines = Lines(handle(dict.fromkeys(ids, SimpleNamespace(node_id=near, max_ongoing_requests=2))))
    try:
        await until(lambda: lines.pick() is not None and len(lines._lines) == 2)
        picked = lines.pick()
        assert picked is not None
        call = await under_way(there, picked)
        assert lines.pick() is picked
        there.go.set()
        await call
        still.close()
        await until(lambda: lines._lines[ids[1]].state is LineState.ENDED)
        call = await under_way(there, picked)
        assert lines.pick() is None
        there.go.set()
        await call
    finally:
        lines.close()
        await there.server.close()
        still.close()


async def test_without_what_is_known_of_serve_there_are_no_lines(near: str) -> None:
    assert near
    for odd in (SimpleNamespace(), SimpleNamespace(_router=None), SimpleNamespace(_router=SimpleNamespace())):
        assert Lines(odd).pick() is None


@pytest.mark.parametrize("dtype", sorted({str(kind) for kind in NUMPY.values()}))
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1, 4), (5, 2, 3)])
async def test_tensors_arrive_as_they_were(dtype: str, shape: tuple[int, ...]) -> None:
    sent = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    if dtype == "object":
        sent = np.array([str(item).encode() for item in sent.ravel()], dtype=object).reshape(shape)
    turned = sent[..., ::-1]  # not as it lies in memory
    number, message = unpacked(bytearray(b"".join(packed(7, Ask({"a": sent, "b": turned}, 0.5)))))
    assert (number, message.timeout_s) == (7, 0.5)
    _, (outputs, failed, reasons) = unpacked(bytearray(b"".join(packed(7, (message.tensors, [1], ["no"])))))
    assert (failed, reasons) == ([1], ["no"])
    for name, tensor in {"a": sent, "b": turned}.items():
        assert (outputs[name].dtype, outputs[name].shape) == (tensor.dtype, shape)
        np.testing.assert_array_equal(outputs[name], tensor)
