"""A scorer's table: the newest, also where a store was restored; only what changed travels; evidence waits within bounds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cluster.errors import Unreachable
from cluster.rollout.evidence import Counts, EvidenceKey
from cluster.routing.changes import TableChange, change_between
from cluster.routing.routes import EMPTY, NOTHING, RouteTable, Stamp, Standing
from deployments.control.client import ActorControlPlane
from deployments.control.evidence_log import EvidenceLog
from deployments.control.table_watch import EvidencePush, TableWatch
from tests.support.routing import TableControl, route, target

pytestmark = pytest.mark.anyio
ONE = route(target(1, ("nowhere", "0" * 64, None)))
TWO = route(target(2, ("nowhere", "0" * 64, None)))


async def test_the_table_of_a_restored_store_is_taken_up() -> None:
    control, seen = TableControl(), list[RouteTable]()
    lost, restored = RouteTable(900, {"digits": ONE}, fence=100), RouteTable(3, {"digits": TWO}, fence=200)
    watch = TableWatch(control, seen.append)
    task = asyncio.create_task(watch.run())
    for table in (lost, replace(lost, number=7), restored, replace(restored, fence=150, number=901)):
        control._table = table
        control._changed.set()
        for _ in range(5):
            await asyncio.sleep(0)
    task.cancel()
    assert seen == [lost, restored]


class Link(ActorControlPlane):
    """To an actor that has these tables: what it answers is written down."""

    def __init__(self, *tables: RouteTable) -> None:
        super().__init__()
        self.tables, self.answers = list(tables), list[Any]()

    async def _ask(self, method: str, limit_s: float, *arguments: Any) -> Any:
        after: Stamp = arguments[0]
        now = self.tables.pop(0) if len(self.tables) > 1 else self.tables[0]
        known = next((table for table in (self.past, now) if table.stamp == after), None)
        self.past = now
        self.answers.append(now if known is None else change_between(known, now))
        return self.answers[-1]

    past = EMPTY


async def test_only_what_changed_travels() -> None:
    one = RouteTable(1, {"digits": ONE}, {"digits": Standing.READY}, fence=5)
    two = replace(one, number=2, routes={"digits": ONE, "other": TWO}, models={**one.models, "other": Standing.READY})
    link = Link(one, two)
    assert await link.routes(NOTHING, 1.0) == one
    assert await link.routes(one.stamp, 1.0) == two
    assert [type(answer) for answer in link.answers] == [RouteTable, TableChange]
    assert set(link.answers[1].routes) == {"other"}


async def test_a_change_from_a_table_that_is_not_here_is_asked_for_whole() -> None:
    one = RouteTable(1, {"digits": ONE}, fence=5)
    link = Link(replace(one, number=2))
    link.past = one  # the actor has it, and this end never had
    assert await link.routes(one.stamp, 1.0) == replace(one, number=2)
    assert [type(answer) for answer in link.answers] == [TableChange, RouteTable]


async def test_evidence_that_waits_is_added_up_and_bounded_by_what_is_served() -> None:
    control, log = TableControl(), EvidenceLog("s1")
    push, away = EvidencePush(control, log), list[int]()
    control.away = True
    for step in range(1, 2001):
        log.add(EvidenceKey("digits", f"r1.{step}", 1), Counts(rows=1))
        log.keep_only({("digits", f"r1.{step}")})
        await push.flush()
        away.append(len(log._counts))
    assert max(away) == 1
    control.away = False
    for _ in range(2):
        await push.flush()
    assert [batch.sequence for batch in control.batches.values()] == [1, 2]


async def test_what_the_controller_refuses_for_now_is_sent_again_under_its_number() -> None:
    class Full(TableControl):
        async def push(self, batch: Any) -> None:
            self.pushes += 1
            if self.pushes <= 2:
                raise Unreachable("much evidence waits for the store already", where="controller", remedy="push it again later")
            await super().push(batch)

    control, log = Full(), EvidenceLog("s1")
    push = EvidencePush(control, log)
    for _ in range(4):
        log.add(EvidenceKey("digits", "r1.1", 1), Counts(rows=1))
        await push.flush()
    assert control.counts(1) == Counts(rows=4)
    assert sorted(sequence for _, sequence in control.batches) == [1, 2]


async def test_a_table_that_can_not_be_taken_up_whole_keeps_no_later_one_out(caplog: pytest.LogCaptureFixture) -> None:
    control, seen = TableControl(), list[int]()

    def changed(table: RouteTable) -> None:
        seen.append(table.number)
        if table.number == 1:
            raise ZeroDivisionError

    watch = TableWatch(control, changed)
    task = asyncio.create_task(watch.run())
    for number in (1, 2):
        control._table = RouteTable(number, {"digits": ONE}, fence=1)
        control._changed.set()
        for _ in range(5):
            await asyncio.sleep(0)
    task.cancel()
    assert (seen, watch.table.number) == ([1, 2], 2)
    assert "table 1 was not taken up whole" in caplog.text


async def test_a_push_that_fails_by_a_fault_of_ours_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("deployments.control.table_watch.PUSH_EVERY_S", 0.0)
    log, pushed = EvidenceLog("scorer"), asyncio.Event()
    log.add(EvidenceKey("digits", "r1", 1), Counts(rows=1))

    class Odd(TableControl):
        tries = 0

        async def push(self, told: object) -> None:
            self.tries += 1
            if self.tries == 1:
                raise ZeroDivisionError
            pushed.set()

    task = asyncio.create_task(EvidencePush(Odd(), log).run())
    async with asyncio.timeout(10):
        await pushed.wait()
    task.cancel()
    assert "what was counted is told later" in caplog.text
