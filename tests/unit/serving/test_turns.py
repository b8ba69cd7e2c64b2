"""Users' calls go first: a piece of an explanation begins where no call wants the thread, and one at a time."""

from __future__ import annotations

import asyncio
import threading

import pytest

from deployments.serving.turns import EngineTurns

pytestmark = pytest.mark.anyio
WAIT_S = 30.0
SOON_S = 0.01


async def test_a_piece_waits_until_no_call_wants_the_thread_and_calls_for_one_piece() -> None:
    turns, gates, done, begun = EngineTurns(1), [threading.Event() for _ in range(2)], [], threading.Event()

    def call(name: str, gate: threading.Event | None = None) -> None:
        assert gate is None or gate.wait(WAIT_S)
        done.append(name)

    def piece() -> None:
        assert turns.take_spare(WAIT_S)
        begun.set()
        call("piece", gates[1])
        turns.give_back()

    first = asyncio.create_task(turns.of_user(lambda: call("first", gates[0])))
    await asyncio.sleep(0)
    assert not turns.take_spare(SOON_S)
    asked = asyncio.create_task(asyncio.to_thread(piece))
    second = asyncio.create_task(turns.of_user(lambda: call("second")))
    await asyncio.sleep(0)
    assert turns.waiting == 2
    gates[0].set()
    await first
    await second
    assert done == ["first", "second"]  # the piece was asked for before the second call, and lets it go first
    assert await asyncio.to_thread(begun.wait, WAIT_S)
    third = asyncio.create_task(turns.of_user(lambda: call("third")))
    await asyncio.sleep(0)
    gates[1].set()
    await asked
    await third
    assert done[2:] == ["piece", "third"]  # what has begun is not interrupted: one piece at most lies before a call


async def test_a_piece_runs_beside_calls_where_a_thread_is_free() -> None:
    turns, gate = EngineTurns(2), threading.Event()
    call = asyncio.create_task(turns.of_user(lambda: gate.wait(WAIT_S)))
    await asyncio.sleep(0)
    assert turns.take_spare(SOON_S)
    turns.give_back()
    other = asyncio.create_task(turns.of_user(lambda: gate.wait(WAIT_S)))
    await asyncio.sleep(0)
    assert not turns.take_spare(SOON_S)
    gate.set()
    assert await call
    assert await other
    assert turns.take_spare(SOON_S)


async def test_a_call_that_fails_leaves_the_engine_free() -> None:
    turns = EngineTurns(1)
    with pytest.raises(IndexError):
        await turns.of_user(lambda: [][0])
    assert turns.take_spare(SOON_S)
    turns.give_back()
    assert turns.take_spare(SOON_S)
    turns.give_back()
    assert await turns.of_user(lambda: "answer") == "answer"
