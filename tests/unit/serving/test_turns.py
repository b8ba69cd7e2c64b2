"""Users' calls go first: a piece of an explanation begins where no call wants the thread, and one at a time."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from deployments.serving.turns import EngineTurns

pytestmark = pytest.mark.anyio


async def test_a_piece_waits_until_no_call_wants_the_thread() -> None:
    turns, gates, done = EngineTurns(1), [threading.Event() for _ in range(3)], []

    def call(name: str, gate: threading.Event | None = None) -> None:
        assert gate is None or gate.wait(30)
        done.append(name)

    first = asyncio.create_task(turns.of_user(lambda: call("first", gates[0])))
    await asyncio.sleep(0)
    piece = await asyncio.to_thread(turns.in_spare_time, lambda: call("piece", gates[1]))
    second = asyncio.create_task(turns.of_user(lambda: call("second")))
    await asyncio.sleep(0)
    assert turns.waiting == 2
    gates[0].set()
    await first
    await second
    assert done == ["first", "second"]  # the piece was asked for before the second call, and lets it go first
    third = asyncio.create_task(turns.of_user(lambda: call("third")))
    await asyncio.sleep(0)
    gates[1].set()
    await asyncio.wrap_future(piece)
    await third
    assert done[2:] == ["piece", "third"]  # what has begun is not interrupted: one piece at most lies before a call


async def test_a_piece_runs_beside_calls_where_a_thread_is_free() -> None:
    turns, gate = EngineTurns(2), threading.Event()
    call = asyncio.create_task(turns.of_user(lambda: gate.wait(30)))
    await asyncio.sleep(0)
    piece: Future[str] = await asyncio.to_thread(turns.in_spare_time, lambda: "piece")
    assert await asyncio.wrap_future(piece) == "piece"
    gate.set()
    assert await call


async def test_what_a_piece_raises_is_told_and_a_cancelled_one_never_begins() -> None:
    turns, gate, begun = EngineTurns(1), threading.Event(), []
    failing: Future[None] = await asyncio.to_thread(turns.in_spare_time, lambda: [][0])
    with pytest.raises(IndexError):
        await asyncio.wrap_future(failing)
    call = asyncio.create_task(turns.of_user(lambda: gate.wait(30)))
    await asyncio.sleep(0)
    given_up: Future[None] = await asyncio.to_thread(turns.in_spare_time, lambda: begun.append(1))
    assert given_up.cancel()
    gate.set()
    await call
    assert await turns.of_user(lambda: len(begun)) == 0
