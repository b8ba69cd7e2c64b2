"""Who used what: counted by caller, recorded once, and what is missing is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from cluster.audit import use_records
from cluster.audit.trail import COUNT_EVERY_S
from cluster.audit.uses import OTHERS, SeenCallers, Used, UseKind, UseReport
from cluster.errors import Unreachable
from cluster.state import AuditEvent, State
from cluster.store.memory import MemoryStore
from cluster.store.port import NO_BRANCHES
from cluster.watch.catalogue import AUDIT_GAPS, FIRST_USES, KEY_EXPIRES, SEEN_CALLERS
from cluster.watch.reports import MetricsReport, Series
from deployments.control.fake_control import FakeControlPlane
from deployments.control.table_watch import UsePush
from deployments.observe import use_log
from deployments.observe.use_log import UseLog
from deployments.serving.fake_fleet import FakeFleet
from tests.support.brain import Brain


class Minute:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 6_000.0

    def __call__(self) -> float:
        return self.now_s


def recorded(brain: Brain, *events: str) -> list[dict[str, Any]]:
    """The audit's records of these events."""
    all_of_them = [orjson.loads(one.document) for one in brain.store.audit_records(brain.store.audit_pruned().size, 10_000)]
    return [event for event in all_of_them if event["event"] in events]


def counted(brain: Brain, metric: str, *labels: str) -> float:
    return brain.controller._metrics.totals().counters.get(Series(metric, labels), 0.0)


@pytest.fixture
def brain() -> Brain:
    brain = Brain()
    brain.serve_first()
    return brain


ONE = UseReport(
    "s1",
    1,
    "gateway 7",
    0.0,
    60.0,
    {
        UseKind("key team", "digits", "1", "http", "ok"): Used(10, 40),
        UseKind("key team", "digits", "1", "grpc", "ok"): Used(1, 1),
        UseKind("key team", "digits", "", "http", "refused"): Used(2, 0),
        UseKind("key other", "digits", "", "http", "refused"): Used(5, 0),
        UseKind("anybody", "", "", "", "refused", "no_such_key", "192.0.2.1"): Used(900, 0),
    },
    stays=True,
)


def test_a_report_becomes_a_record_of_each_caller_and_model_once(brain: Brain) -> None:
    for _ in range(3):  # the answer may get lost
        brain.controller.push(ONE)
    mine, others = recorded(brain, "used")
    assert (mine["actor"], mine["model"], mine["detail"]["calls"], mine["detail"]["rows"]) == ("key team", "digits", 13, 41)
    assert mine["detail"]["uses"][0] == {"version": "1", "door": "http", "outcome": "ok", "calls": 10, "rows": 40}
    assert (others["actor"], others["door"], others["detail"]["process"]) == ("key other", "http", "gateway 7")
    (refused,) = recorded(brain, "credential refused")
    assert (refused["address"], refused["detail"]["reason"], refused["detail"]["times"]) == ("192.0.2.1", "no_such_key", 900)
    (first,) = recorded(brain, "first use")  # who was refused has not used it
    assert (first["actor"], first["model"], counted(brain, FIRST_USES.name, "digits")) == ("key team", "digits", 1.0)
    assert [event.event for event in brain.store.audit("digits")][-1] == "first use"  # a history is not full of minutes


def test_it_is_once_for_the_next_controller_too(brain: Brain) -> None:
    brain.controller.push(ONE)
    brain.revive()
    brain.controller.push(ONE)
    brain.controller.push(replace(ONE, sequence=2))
    assert len(recorded(brain, "used")) == 4
    assert len(recorded(brain, "first use")) == 1
    assert recorded(brain, "audit gap") == []


class Full(MemoryStore):
    """A store that takes nothing while it is full."""

    full = False

    def save(
        self,
        fence: int,
        before: State,
        after: State,
        events: Any,
        seen: SeenCallers | None = None,
        branches: Any = NO_BRANCHES,
    ) -> None:
        if self.full:
            raise Unreachable("the store's disk is full", where="store", remedy="make room")
        super().save(fence, before, after, events, seen, branches)


def test_a_store_that_takes_nothing_loses_nothing() -> None:
    store = Full()
    brain = Brain(store)
    brain.serve_first()
    store.full = True
    with pytest.raises(Unreachable, match="disk is full"):
        brain.controller.push(ONE)
    with pytest.raises(Unreachable, match="disk is full"):
        brain.call("key.create", name="k", id="a" * 10, digest="0" * 64)
    assert brain.store.load().keys == {}
    store.full = False
    brain.tick()
    brain.controller.push(ONE)
    assert len(recorded(brain, "used")) == 2


def test_who_falls_silent_leaves_a_gap_that_is_told_once_and_closed_when_he_is_back(brain: Brain) -> None:
    brain.controller.push(ONE)
    brain.controller.push(replace(ONE, source="s2", where="gateway 8"))
    brain.controller.push(replace(ONE, source="job", where="a run", stays=False))
    for _ in range(30):
        brain.controller.push(MetricsReport("s2", brain.sequence))  # it lives
        brain.sequence += 1
        brain.tick(each_s=4)
    (gap,) = recorded(brain, "audit gap")
    assert (gap["detail"]["process"], gap["detail"]["from_s"]) == ("gateway 7", 60.0)
    assert counted(brain, AUDIT_GAPS.name) == 1
    brain.controller.push(replace(ONE, sequence=2))
    (closed,) = recorded(brain, "audit gap closed")
    assert closed["detail"]["process"] == "gateway 7"


def test_who_has_just_begun_is_not_silent_before_its_first_metrics(brain: Brain) -> None:
    brain.tick(30, each_s=4)  # the controller has been there for longer than anybody may be silent
    brain.controller.push(
        replace(ONE, uses={}, began_s=brain.clock.now_s - 600, ended_s=brain.clock.now_s - 600)
    )  # clocks differ
    brain.tick(15, each_s=4)
    assert recorded(brain, "audit gap") == []
    brain.tick(each_s=4)
    (gap,) = recorded(brain, "audit gap")
    assert gap["detail"]["process"] == "gateway 7"


def test_who_ends_in_order_leaves_none_and_is_forgotten_in_time(brain: Brain) -> None:
    brain.controller.push(ONE)
    brain.controller.push(replace(ONE, sequence=2, uses={}, last=True))
    brain.controller.push(replace(ONE, sequence=2, uses={}, last=True))
    brain.tick(30, each_s=10)
    assert recorded(brain, "audit gap") == []
    brain.clock.now_s += 4_000
    brain.controller.push(replace(ONE, source="s3"))
    assert set(brain.store.load().tellers) == {"s3"}


def test_reports_that_a_restored_store_never_saw_are_told(brain: Brain) -> None:
    brain.controller.push(ONE)
    brain.controller.push(replace(ONE, sequence=5))
    (gap,) = recorded(brain, "audit gap")
    assert gap["detail"]["why"] == "3 of its reports are not in this store"


def test_a_process_that_a_restored_store_does_not_know_is_told_too(brain: Brain) -> None:
    brain.controller.push(replace(ONE, sequence=7, began_s=900.0, ended_s=960.0))
    (gap,) = recorded(brain, "audit gap")
    assert gap["detail"] == {
        "process": "gateway 7",
        "why": "this store knows nothing of its first 6 reports",
        "from_s": 540.0,
        "to_s": brain.clock.now_s,
    }
    assert len(recorded(brain, "used")) == 2


def test_one_that_was_cut_off_for_hours_is_still_known(brain: Brain) -> None:
    brain.controller.push(ONE)
    brain.tick(30, each_s=4)
    brain.clock.now_s += 20_000
    brain.controller.push(replace(ONE, source="s2", ended_s=brain.clock.now_s))
    brain.controller.push(ONE)  # its answer was lost as the line was
    brain.controller.push(replace(ONE, sequence=2, ended_s=brain.clock.now_s))
    assert [one["event"] for one in recorded(brain, "audit gap", "audit gap closed")] == ["audit gap", "audit gap closed"]
    assert len(recorded(brain, "used")) == 3 * 2


def test_runs_that_were_killed_are_forgotten_in_time(brain: Brain) -> None:
    for number in range(5):
        brain.controller.push(replace(ONE, source=f"job {number}", stays=False))
    brain.clock.now_s += 90_000
    brain.controller.push(replace(ONE, source="job 5", stays=False, ended_s=brain.clock.now_s))
    assert set(brain.store.load().tellers) == {"job 5"}


def test_a_process_tells_once_a_minute_and_at_its_end() -> None:
    clock = Minute()
    log = UseLog("s", clock)
    log.stays("gateway 7")
    hello = log.next_report()
    assert hello is not None
    assert not hello.uses
    assert hello.stays
    log.add("key team", "digits", "1", "http", "ok", 3)
    assert log.next_report() is hello  # until it is recorded
    log.delivered(hello)
    log.add("key team", "digits", "1", "http", "ok", 4)
    assert log.next_report() is None
    clock.now_s += 60
    told = log.next_report()
    assert told is not None
    assert (told.uses, told.sequence) == ({UseKind("key team", "digits", "1", "http", "ok"): Used(2, 7)}, 2)
    assert (told.began_s, told.ended_s) == (6_000.0, 6_060.0)
    log.delivered(told)
    log.end()
    last = log.next_report()
    assert last is not None
    assert last.last
    log.delivered(last)
    assert log.next_report() is None


def test_what_a_controller_that_was_away_missed_comes_whole_and_once() -> None:
    async def run() -> None:
        control, clock = FakeControlPlane(FakeFleet()), Minute()
        log = UseLog("s", clock)
        push = UsePush(control, log)
        log.add("key team", "digits", "1", "http", "ok", 3)
        control.away = True
        for _ in range(3):
            clock.now_s += 60
            assert not await push.flush()
        log.add("key team", "digits", "1", "http", "ok", 4)
        control.away = False
        assert await push.flush()
        await push.last()
        store = control.controller._store
        told = [orjson.loads(one.document) for one in store.audit_records(0, 100)]
        assert [one["detail"]["rows"] for one in told if one["event"] == "used"] == [3, 4]
        assert [teller.ended for teller in store.load().tellers.values()] == [True]

    asyncio.run(run())


def test_who_looked_at_rows_is_told_once_a_minute_and_has_not_used_the_model(brain: Brain) -> None:
    clock = Minute()
    log = UseLog("s", clock)
    for _ in range(3):
        log.looked("key ops", "digits", "quarantine of batch nightly, run r1", "console", 5)
    for number in range(1_000):
        log.looked("key ops", "digits", f"dead letters of stream s{number}", "console", 1)
    clock.now_s += 60
    report = log.next_report()
    assert report is not None
    assert len(report.uses) == use_log.LOOKS_MOST + 1
    assert sum(used.calls for used in report.uses.values()) == 1_003
    brain.controller.push(report)
    look = recorded(brain, "rows looked at")[0]
    assert (look["actor"], look["model"], look["door"]) == ("key ops", "digits", "console")
    assert (look["detail"]["what"], look["detail"]["times"], look["detail"]["rows"]) == (
        "quarantine of batch nightly, run r1",
        3,
        15,
    )
    assert recorded(brain, "first use", "used") == []
    assert [event.event for event in brain.store.audit("digits")][-1] != "rows looked at"


def test_neither_callers_nor_wrong_keys_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_log, "USES_MOST", 10)
    monkeypatch.setattr(use_log, "ADDRESSES_MOST", 5)
    clock = Minute()
    log = UseLog("s", clock)
    for number in range(1000):
        log.add(f"token {number}", "digits", "1", "http", "ok", 2)
        log.refused("no_such_key", f"192.0.2.{number}", "")
    clock.now_s += 60
    told = log.next_report()
    assert told is not None
    assert len(told.uses) == 10 + 1 + 5 + 1
    assert told.uses[UseKind(OTHERS, "", "", "http", "ok")] == Used(990, 1980)
    assert sum(used.calls for use, used in told.uses.items() if use.reason) == 1000


def test_who_uses_a_model_is_never_new_again_however_many_come_after(brain: Brain) -> None:
    brain.controller.push(ONE)
    day_s = 86_400.0
    for day in range(1, 500, 50):  # longer than anybody is remembered who does not come
        brain.clock.now_s += 50 * day_s
        many = {UseKind(f"token {day} {number}", "digits", "1", "http", "ok"): Used(1, 1) for number in range(200)}
        mine = {UseKind("key team", "digits", "1", "http", "ok"): Used(1, 1)}
        brain.controller.push(replace(ONE, sequence=day + 1, uses=many | mine, ended_s=brain.clock.now_s))
        brain.revive()
    firsts = [one["actor"] for one in recorded(brain, "first use")]
    assert firsts.count("key team") == 1
    assert len(set(firsts)) == len(firsts) == 2_001


def test_who_has_not_come_for_longer_than_a_year_is_forgotten_and_new_again(brain: Brain) -> None:
    brain.controller.push(ONE)
    brain.clock.now_s += use_records.SEEN_FOR_S - 10
    brain.controller.push(replace(ONE, source="s2"))
    assert len(recorded(brain, "first use")) == 1
    brain.clock.now_s += use_records.SEEN_FOR_S + 10
    brain.controller.push(replace(ONE, source="s3", uses={UseKind("key other", "digits", "1", "http", "ok"): Used(1, 1)}))
    assert brain.store.seen_count() == 1  # whoever does not come any more takes no room
    brain.controller.push(replace(ONE, source="s4"))
    assert [one["actor"] for one in recorded(brain, "first use")] == ["key team", "key other", "key team"]


def test_it_shows_how_many_callers_are_remembered(brain: Brain) -> None:
    brain.controller.push(ONE)
    brain.clock.now_s += COUNT_EVERY_S
    brain.tick()
    shown = {name: value for name, _, value in brain.call("metrics.list")["values"]}
    assert shown[SEEN_CALLERS.name] == 1


def test_it_is_told_when_the_last_key_of_a_name_ends(brain: Brain) -> None:
    now_s = brain.clock.now_s
    for number, (name, lasts_s) in enumerate((("old", 100.0), ("twice", 100.0), ("ever", 50.0), ("always", None))):
        brain.call("key.create", name=name, id=f"{number:010d}", digest=f"{number:064d}", lasts_s=lasts_s)
    brain.call("key.rotate", name="twice", id="a" * 10, digest="a" * 64, lasts_s=900, grace_s=10)
    brain.clock.now_s += 60
    told = brain.call("metrics.list")["values"]
    ends = {labels[0]: value for name, labels, value in told if name == KEY_EXPIRES.name}
    assert ends == {"old": now_s + 100, "twice": now_s + 900}


def test_an_old_event_has_no_door(brain: Brain) -> None:
    event = brain.store.audit("digits")[0]
    assert event == AuditEvent(event.at_s, "digits", None, "registered", "a person", event.detail)
