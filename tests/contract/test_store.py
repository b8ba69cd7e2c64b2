"""One suite for every store: in memory, SQLite, PostgreSQL."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import TypeAdapter

from cluster.audit.merkle import TreeHead
from cluster.audit.uses import CallerOf, SeenCallers
from cluster.controller import Controller
from cluster.errors import BadInput, Fenced, NotFound, Unreachable
from cluster.fleet.retry import Retry
from cluster.fleet.serving import Serving
from cluster.ports import FeedKind, FeedSpec
from cluster.rollout.evidence import Counts, Evidence, EvidenceKey
from cluster.rollout.illness import Illness
from cluster.rollout.plan import Plan
from cluster.rollout.record import Rollout
from cluster.signature import Datatype, Signature, TensorSpec
from cluster.state import AuditEvent, Feed, Model, State
from cluster.store.engine import KEEPALIVES, patience_with
from cluster.store.holder import DEAD_AFTER_S, RENEW_EVERY_S, Holder, StoreClaim
from cluster.store.memory import MemoryStore
from cluster.store.port import Store
from cluster.store.rows import Control
from cluster.store.sql import SqlStore
from cluster.versions import Version, VersionId, Versions
from consumers.batch.schedule.fake_jobs import FakeJobs
from deployments.control.fake_control import NoFeeds
from deployments.serving.fake_fleet import FakeFleet

Open = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store anew each time, as another process would."""
    opened: list[Store] = []
    memory = MemoryStore()
    if request.param == "postgres":
        url = request.getfixturevalue("postgres")
    else:
        url = f"sqlite:///{tmp_path / 'new folder %40' / 'store.db'}"

    def _open() -> Store:
        store: Store = memory if request.param == "memory" else SqlStore(url)
        opened.append(store)
        return store

    yield _open
    for store in opened:
        store.close()


def _full() -> State:
    spec = TensorSpec(name="input", datatype=Datatype.FP32, shape=(-1, 4))
    version = Version(VersionId("digits", 1), "file:///a", "digest", "onnx", Signature(inputs=(spec,), outputs=(spec,)), 12.5)
    rollout = Rollout(1, "digits", None, 1, Plan(), 13.0, 13.0, illness=Illness(14.0, begun=(13.5, 14.0)), warmed_s=0.5)
    failed = Retry(2, "no such folder", 20.5)
    feed = Feed(FeedSpec(FeedKind.STREAM, "scores", "digits", '{"topic":"in"}', "d1"), retry=Retry(1, "no codec", None))
    return State(
        versions=Versions([version]),
        models={
            "digits": Model(
                "digits", Serving(), Plan(), stable=1, last_number=1, rollout=1, warm={3: 99.5}, replicas=2, retries={1: failed}
            )
        },
        rollouts={1: rollout},
        feeds={feed.spec.app: feed},
        evidence=Evidence({EvidenceKey("digits", "r1.1", 1): Counts(rows=3, errors=1)}),
        scorers={"s1": 4},
        last_rollout=1,
        table=7,
        table_digest="abc",
    )


def _event(name: str, model: str = "digits") -> AuditEvent:
    return AuditEvent(1.5, model, 1, name, "a person", {"weights": [1, 2], "reason": "Grüße"})


def test_a_new_store_is_empty(open_store: Open) -> None:
    store = open_store()
    assert store.load() == State()
    assert store.audit("digits") == []


def test_what_is_saved_is_there_for_the_next_process(open_store: Open) -> None:
    store = open_store()
    store.save(store.acquire(), State(), _full(), [_event("started"), _event("other", model="else"), _event("promoted")])
    again = open_store()
    assert again.load() == _full()
    assert again.audit("digits") == [_event("started"), _event("promoted")]
    assert again.audit("digits", limit=1) == [_event("promoted")]


def test_changes_and_deletions_are_saved(open_store: Open) -> None:
    store = open_store()
    fence = store.acquire()
    before = _full()
    store.save(fence, State(), before, [])
    after = replace(
        before.with_model(replace(before.models["digits"], stable=2)), evidence=Evidence(), versions=Versions(), table=8
    )
    store.save(fence, before, after, [])
    assert open_store().load() == after


def test_branches_of_subject_keys_are_read_one_by_one_and_replaced(open_store: Open) -> None:
    store = open_store()
    fence = store.acquire()
    store.save(fence, State(), State(), [], branches={"subjects/8/1": b"\0a", "subjects/8/2": b"b", "others/8/1": b"c"})
    store.save(fence, State(), State(), [_event("erased")], branches={"subjects/8/2": bytes(5000)})
    with pytest.raises(Fenced):
        store.save(fence - 1, State(), State(), [], branches={"subjects/8/1": b"late"})
    again = open_store()
    assert again.branches(["subjects/8/1", "subjects/8/2", "subjects/16/1"]) == {
        "subjects/8/1": b"\0a",
        "subjects/8/2": bytes(5000),
    }
    assert again.branches([]) == {}
    assert again.load() == State()
    assert len(again.audit("digits")) == 1


def test_callers_are_remembered_until_they_were_not_seen_for_long(open_store: Open) -> None:
    store, ann, bob = open_store(), CallerOf("digits", "key ann"), CallerOf("digits", "key bob's")
    fence = store.acquire()
    assert store.seen([ann, bob]) == {}
    assert store.seen([]) == {}
    store.save(fence, State(), State(), [_event("used")], SeenCallers({ann: 100.0, bob: 110.0}, 0.0))
    store.save(fence, State(), State(), [_event("used")], SeenCallers({bob: 120.0}, 100.0))
    again = open_store()
    assert again.seen([ann, bob, CallerOf("churn", "key ann")]) == {ann: 100.0, bob: 120.0}
    assert again.seen_count() == 2
    store.save(fence, State(), State(), [_event("used")], SeenCallers({CallerOf("churn", "key ann"): 200.0}, 101.0))
    assert again.seen([ann, bob]) == {bob: 120.0}
    assert again.seen_count() == 2
    open_store().acquire()
    with pytest.raises(Fenced):
        store.save(fence, State(), State(), [], SeenCallers({ann: 300.0}, 0.0))
    assert again.seen([ann]) == {}


def test_nothing_is_remembered_of_who_used_a_model_that_is_gone(open_store: Open) -> None:
    store, kept, lost = open_store(), CallerOf("digits", "key ann"), CallerOf("churn", "key ann")
    fence, before = store.acquire(), State().with_model(Model("digits")).with_model(Model("churn"))
    store.save(fence, State(), before, [], SeenCallers({kept: 100.0, lost: 100.0}, 0.0))
    store.save(fence, before, replace(before, models={"digits": before.models["digits"]}), [_event("deleted", "churn")])
    assert open_store().seen([kept, lost]) == {kept: 100.0}


def test_a_fenced_controller_writes_nothing(open_store: Open) -> None:
    old = open_store()
    fence = old.acquire()
    old.save(fence, State(), _full(), [])
    new = open_store()
    assert new.acquire() > fence
    with pytest.raises(Fenced):
        old.save(fence, _full(), replace(_full(), table=99), [_event("late")])
    assert new.load() == _full()
    assert new.audit("digits") == []


def test_a_fence_outranks_any_that_a_lost_store_gave_out(open_store: Open) -> None:
    """A copy of a store knows nothing of the fences that were given out after it was made: time does."""
    before_s = int(time.time())
    assert before_s <= open_store().acquire() <= time.time() + 1


def test_the_fence_survives_reopening(open_store: Open) -> None:
    first = open_store().acquire()
    assert open_store().acquire() > first


HERE, THERE = Holder("key a", "/home/a on head-a", 10.0, 10.0), Holder("key b", "/home/b on head-b", 20.0, 20.0)


def test_the_holder_is_known_to_the_next_and_none_of_the_state(open_store: Open) -> None:
    store = open_store()
    assert store.holder() is None
    fence = store.acquire(HERE)
    store.save(fence, State(), _full(), [])
    assert open_store().holder() == HERE
    store.renew(fence, replace(HERE, renewed_s=15.0))
    store.save(fence, _full(), replace(_full(), table=8), [])
    again = open_store()
    assert again.holder() == replace(HERE, renewed_s=15.0)
    assert again.load() == replace(_full(), table=8)
    again.acquire()  # by an older Headrace, say
    assert again.holder() is None


def test_a_fenced_holder_renews_nothing(open_store: Open) -> None:
    old, new = open_store(), open_store()
    fence = old.acquire(HERE)
    new.acquire(THERE)
    with pytest.raises(Fenced):
        old.renew(fence, replace(HERE, renewed_s=15.0))
    assert new.holder() == THERE


def test_two_clusters_do_not_take_a_store_from_each_other_without_end(open_store: Open) -> None:
    def begun(holder: Holder) -> Controller:
        return Controller(open_store(), FakeFleet(), NoFeeds(), FakeJobs(), lambda: now_s, holder=holder)

    now_s = 100.0
    first, claim = begun(HERE), StoreClaim(THERE.cluster)
    with pytest.raises(Unreachable):
        claim.check(open_store().holder(), now_s, where="store")
    now_s += RENEW_EVERY_S
    first.renew()
    with pytest.raises(Fenced, match="/home/a on head-a"):
        claim.check(open_store().holder(), now_s, where="store")
    second = begun(THERE)  # all the same, as somebody said
    for late in (first.renew, lambda: first.call("apply", {"models": [{"name": "digits"}]})):
        with pytest.raises(Fenced):
            late()
    back = StoreClaim(HERE.cluster)
    with pytest.raises(Unreachable):
        back.check(open_store().holder(), now_s, where="store")
    now_s += RENEW_EVERY_S
    second.renew()
    with pytest.raises(Fenced, match="/home/b on head-b"):
        back.check(open_store().holder(), now_s, where="store")
    second.call("apply", {"models": [{"name": "digits"}]})
    for _ in range(round(DEAD_AFTER_S / RENEW_EVERY_S) - 1):  # it is dead, and who was refused goes on where it was
        now_s += RENEW_EVERY_S
        with pytest.raises(Fenced):
            back.check(open_store().holder(), now_s, where="store")
    back.check(open_store().holder(), now_s + RENEW_EVERY_S, where="store")
    assert [model["name"] for model in begun(HERE).call("status", {})["models"]] == ["digits"]


def test_an_older_headrace_reads_past_the_holder(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.save(store.acquire(HERE), State(), _full(), [])
    store.close()
    with sqlite3.connect(tmp_path / "store.db") as other:
        control = dict(other.execute("SELECT key, document FROM control").fetchall())
    other.close()
    assert set(control) == {"state", "holder"}
    # As it reads all rows of this table.
    assert TypeAdapter(Control).validate_json(control["holder"]) == Control()


def test_a_locked_sqlite_is_unreachable_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqlStore(f"sqlite:///{path}", busy_timeout_s=0.05)
    fence = store.acquire()
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unreachable, match="locked"):
            store.save(fence, State(), _full(), [])
        other.execute("ROLLBACK")
    other.close()
    assert store.load() == State()
    store.save(fence, State(), _full(), [])
    assert store.load() == _full()
    store.close()


def test_a_postgres_that_is_away_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        SqlStore(f"postgresql+psycopg://nobody@/none?host={tmp_path}", busy_timeout_s=1)


def test_a_store_of_a_newer_headrace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    SqlStore(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    other.close()
    with pytest.raises(BadInput, match="another Headrace"):
        SqlStore(f"sqlite:///{path}")


@pytest.mark.parametrize("url", ["nonsense", "mongodb://here/there", "postgresql+psycopg://user@here:port/there"])
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="not a usable store URL"):
        SqlStore(url)


def test_how_long_a_silent_database_is_waited_for_is_as_its_url_says() -> None:
    url = "postgresql+psycopg://user@host/database"
    assert patience_with(sa.make_url(url), 5.0) == {"connect_timeout": 5, **KEEPALIVES}
    said = patience_with(sa.make_url(f"{url}?tcp_user_timeout=90000&connect_timeout=30"), 5.0)
    assert said == {name: value for name, value in KEEPALIVES.items() if name != "tcp_user_timeout"}
    assert patience_with(sa.make_url("mysql://host/database"), 5.0) == {}


def test_a_damaged_file_is_unreachable_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(Unreachable, match="not a database"):
        SqlStore(f"sqlite:///{path}")
    assert path.read_bytes() == b"this is no database" * 100


def with_model(folder: Path, row: str) -> SqlStore:
    """A store in which somebody else has written the model `digits`."""
    path = folder / "store.db"
    SqlStore(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as other:
        other.execute("INSERT INTO models VALUES ('digits', ?)", (row,))
    other.close()
    return SqlStore(f"sqlite:///{path}")


def test_a_row_that_cant_be_read_is_named(tmp_path: Path) -> None:
    store = with_model(tmp_path, '{"name": "digits", "serving": {"timeout_s": null}}')
    with pytest.raises(BadInput, match=r"models digits: .* serving\.timeout_s: Input should be a valid number"):
        store.load()
    store.close()


def test_rows_of_an_older_headrace_open(tmp_path: Path) -> None:
    """What a row lacks has its default; what it has and we no longer know is left out."""
    store = with_model(tmp_path, '{"name": "digits", "stable": 3, "old": 1}')
    assert store.load() == State(models={"digits": Model("digits", stable=3)})
    store.close()


def test_the_tree_has_every_event_that_was_saved_and_their_very_bytes(open_store: Open) -> None:
    store = open_store()
    fence, before = store.acquire(), store.load()
    assert store.audit_head() == TreeHead()
    events = [
        AuditEvent(float(number), "digits" if number % 2 else "", None, "applied", "ann", {"n": "\u00e9"}) for number in range(5)
    ]
    store.save(fence, before, before, events[:3])
    store.save(fence, before, before, events[3:])
    with pytest.raises(Fenced):
        store.save(fence - 1, before, before, events)
    store = open_store()
    found = store.audit_records(0, 100)
    assert [one.number for one in found] == list(range(5))
    assert [AuditEvent(**json.loads(one.document)) for one in found] == events
    assert store.audit_head() == TreeHead().adding(one.document.encode() for one in found)
    assert store.audit_records(3, 1) == found[3:4]
    assert store.audit_records(5, 10) == []


def test_what_is_pruned_keeps_its_numbers_and_the_tree_its_root(open_store: Open) -> None:
    store = open_store()
    fence = store.acquire()
    store.save(fence, State(), State(), [_event(f"e{number}") for number in range(7)])
    first_five = TreeHead().adding(one.document.encode() for one in store.audit_records(0, 5))
    whole = store.audit_head()
    store.prune(fence, first_five, [_event("pruned", "")])
    store.prune(fence, first_five, [])  # again: nothing more goes
    store = open_store()
    assert store.audit_pruned() == first_five
    with pytest.raises(NotFound, match="before 5 were pruned"):
        store.audit_records(4, 1)
    kept = store.audit_records(5, 10)
    assert [(one.number, json.loads(one.document)["event"]) for one in kept] == [(5, "e5"), (6, "e6"), (7, "pruned")]
    assert first_five.adding(one.document.encode() for one in kept[:2]) == whole
    assert first_five.adding(one.document.encode() for one in kept) == store.audit_head()
    with pytest.raises(Fenced):
        store.prune(fence - 1, store.audit_head(), [])


def test_what_is_of_the_audit_alone_is_in_no_history(open_store: Open) -> None:
    store = open_store()
    store.save(store.acquire(), State(), State(), [_event("used"), _event("promoted"), _event("audit gap", "")])
    assert [event.event for event in store.audit("digits")] == ["promoted"]
    assert store.audit("") == []
    assert store.audit_head().size == 3


def test_a_store_that_cant_be_opened_leaves_no_connection(tmp_path: Path) -> None:
    """The controller tries again twice a second."""
    opened, closed = list[object](), list[object]()
    url = f"sqlite:///{tmp_path / 'store.db'}"
    SqlStore(url).close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of a later Headrace'")
    counted = {
        "connect": lambda connection, _: opened.append(connection),
        "close": lambda connection, _: closed.append(connection),
    }
    for event, count in counted.items():
        sa.event.listen(sa.Pool, event, count)
    try:
        with pytest.raises(BadInput, match="written by another Headrace"):
            SqlStore(url)
    finally:
        for event, count in counted.items():
            sa.event.remove(sa.Pool, event, count)
    assert opened
    assert closed == opened


def test_on_a_full_disk_nothing_is_changed_that_cant_be_recorded(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}")
    fence, before = store.acquire(), _full()
    store.save(fence, State(), before, [_event("began")])
    head = store.audit_head()

    def no_more_pages(connection: sqlite3.Connection, _: object) -> None:
        # SQLite gives the same error for this as for a disk without room.
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")

    store._engine.dispose()
    sa.event.listen(store._engine, "connect", no_more_pages)
    many = [replace(_event("promoted"), detail={"evidence": "x" * 50_000})]
    with pytest.raises(Unreachable, match="disk is full: nothing can be recorded in the audit, so nothing is changed") as refused:
        store.save(fence, before, replace(before, table=8), many)
    assert "make room" in refused.value.remedy
    assert store.load() == before
    assert store.audit_head() == head
    sa.event.remove(store._engine, "connect", no_more_pages)
    store._engine.dispose()
    store.save(fence, before, replace(before, table=8), many)
    assert store.load().table == 8
    store.close()
