"""One look for all viewers, and each is told what he has not seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from cluster.access.callers import CLUSTER, VISITOR, Caller
from cluster.errors import NoCapacity, Unauthenticated, Unreachable
from deployments.gateway.console import watching
from deployments.gateway.console.watching import Watching
from tests.support.gateway_fakes import FakeControl, table

pytestmark = pytest.mark.anyio


class _Control(FakeControl):
    """Tells of the models in `names`; counts how often it is asked."""

    def __init__(self, *names: str) -> None:
        super().__init__(table())
        self.names, self.asked = list(names), 0

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        self.asked += 1
        if self.away:
            raise Unreachable("away", where="controller")
        return {"table": 1, "tick_s": 0.0, "models": [{"name": name} for name in self.names], "feeds": []}


def _watching(control: _Control) -> Watching:
    return Watching(control, "1", look_every_s=0.01, clock=lambda: 1_000.0)


async def _next(frames: AsyncGenerator[bytes, None]) -> tuple[str, str, dict[str, Any]]:
    """The next event: its id, its name, its rows by key, None for those that are gone."""
    while True:
        lines = (await anext(frames)).decode().split("\n")
        if lines[0].startswith("id: "):
            told = json.loads(lines[2].removeprefix("data: "))
            return lines[0][4:], lines[1].removeprefix("event: "), told["rows"] | dict.fromkeys(told["gone"])


async def test_a_picture_then_changes_and_what_was_missed_after_a_gap() -> None:
    control = _Control("a", "b")
    seen, ending = _watching(control), asyncio.Event()
    frames = seen.frames(lambda: VISITOR, "", ending)
    first, name, rows = await _next(frames)
    assert (name, sorted(rows)) == ("picture", ["house", "model/a", "model/b"])
    control.names = ["a", "c"]
    _, name, rows = await _next(frames)
    assert (name, rows) == ("change", {"model/b": None, "model/c": {"name": "c"}})
    # Somebody who was cut off after the picture is told the same, and one of another gateway all of it.
    again = seen.frames(lambda: VISITOR, first, ending)
    assert (await _next(again))[1:] == ("change", {"model/b": None, "model/c": {"name": "c"}})
    others = [seen.frames(lambda: VISITOR, odd, ending) for odd in ("0000-1", f"{seen.epoch}-{'9' * 5000}")]
    assert [(await _next(each))[1] for each in others] == ["picture", "picture"]
    for each in (frames, again, *others):
        await each.aclose()


async def test_all_viewers_share_one_look_and_nobody_looks_for_none() -> None:
    control = _Control("a")
    seen, ending = _watching(control), asyncio.Event()
    viewers = [seen.frames(lambda: VISITOR, "", ending) for _ in range(50)]
    for each in viewers:
        await _next(each)
    assert control.asked < 10
    assert seen.viewers == 50
    for each in viewers:
        await each.aclose()
    asked = control.asked
    await asyncio.sleep(0.1)  # ten looks' time
    assert (seen.viewers, control.asked) == (0, asked)


async def test_the_last_picture_stays_while_the_controller_is_away() -> None:
    control = _Control("a")
    seen, ending = _watching(control), asyncio.Event()
    frames = seen.frames(lambda: VISITOR, "", ending)
    await _next(frames)
    control.away = True
    _, name, rows = await _next(frames)
    assert (name, sorted(rows), rows["house"]["away_s"], rows["house"]["why"]) == ("change", ["house"], 1_000.0, "away")
    control.away = False
    assert (await _next(frames))[2]["house"]["away_s"] is None
    await frames.aclose()


async def test_it_ends_with_the_gateway_and_with_its_viewers_right() -> None:
    control = _Control("a")
    seen, ending = _watching(control), asyncio.Event()
    frames, known = seen.frames(lambda: VISITOR, "", ending), [True]

    def who() -> Caller:
        if not known[0]:
            raise Unauthenticated("gone", where="key")
        return VISITOR

    other = seen.frames(who, "", ending)
    await _next(frames)
    await _next(other)
    known[0] = False
    control.names = ["b"]
    with pytest.raises(Unauthenticated):
        await _next(other)
    await _next(frames)
    ending.set()
    assert [frame async for frame in frames] == []


async def test_there_are_so_many_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "VIEWERS_MOST", 1)
    seen, ending = _watching(_Control("a")), asyncio.Event()
    frames = seen.frames(lambda: VISITOR, "", ending)
    await anext(frames)
    with pytest.raises(NoCapacity):
        await anext(seen.frames(lambda: VISITOR, "", ending))
    await frames.aclose()


async def test_a_controller_that_does_not_answer_is_told_before_the_call_has_failed() -> None:
    control, answers = _Control("a"), asyncio.Event()
    answers.set()

    async def slow(command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        await answers.wait()
        return await _Control.call(control, command, payload, caller)

    control.call = slow  # type: ignore[method-assign]
    seen = Watching(control, "1", look_every_s=0.01, late_s=0.02, clock=lambda: 1_000.0)
    frames = seen.frames(lambda: VISITOR, "", asyncio.Event())
    _, _, rows = await _next(frames)
    assert rows["house"]["away_s"] is None
    answers.clear()
    _, _, rows = await _next(frames)
    assert (rows["house"]["away_s"], sorted(rows)) == (1_000.0, ["house"])  # the models stay as they were
    answers.set()
    _, _, rows = await _next(frames)
    assert rows["house"]["away_s"] is None
    await frames.aclose()
