"""A store as the first Headrace (a83c0a2) wrote it, of schema 0001, in the middle of a rollout: it opens, and that goes on."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from cluster.audit.merkle import TreeHead
from cluster.audit.uses import CallerOf
from cluster.errors import Conflict
from cluster.rollout.evidence import Counts, EvidenceKey
from cluster.rollout.illness import Illness
from cluster.rollout.record import RolloutState
from cluster.store.engine import migrate_to
from cluster.store.migrations import versions
from cluster.store.sql import SqlStore
from tests.support.brain import Brain

FIXTURE = Path(__file__).parents[2] / "fixtures" / "store-0001.sql"


@pytest.fixture(params=["sqlite", "postgres"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as written:
        written.executescript(FIXTURE.read_text())
    written.close()
    url = f"sqlite:///{path}"
    if request.param == "postgres":
        url = _copied(url, request.getfixturevalue("postgres"))
    store = SqlStore(url)
    yield store
    store.close()


def _copied(of: str, to: str) -> str:
    """The same rows in a PostgreSQL whose tables the first migration made; its URL."""
    source, target = sa.create_engine(of), sa.create_engine(to)
    tables = sa.MetaData()
    tables.reflect(source)
    with source.connect() as read, target.begin() as write:
        migrate_to("0001", write)
        write.execute(sa.text("DELETE FROM fence"))
        for table in tables.sorted_tables:
            rows = [dict(row) for row in read.execute(sa.select(table)).mappings()]
            if rows and table.name != "alembic_version":
                write.execute(table.insert(), rows)
        write.execute(sa.text("SELECT setval('audit_id_seq', (SELECT max(id) FROM audit))"))
    source.dispose()
    target.dispose()
    return to


@pytest.mark.thorough
def test_what_it_remembers_is_all_there(old: SqlStore) -> None:
    state = old.load()
    assert [rollout.state for rollout in state.rollouts.values()] == [
        RolloutState.PROMOTED,
        RolloutState.ROLLED_BACK,
        RolloutState.CANARY,
    ]
    assert state.evidence[EvidenceKey("digits", "r3.1", 3)] == Counts(rows=100, errors=1, calls=10)
    assert [rollout.reached for rollout in state.rollouts.values()] == [0, 1, 1]  # which it did not know by itself
    assert (state.models["digits"].stable, state.models["digits"].replicas, state.table) == (1, 2, 7)
    assert list(state.feeds) == ["stream--scores"]
    assert [event.actor for event in old.audit("digits") if event.event == "rolled_back"] == ["check error_rate"]


def test_its_rollout_goes_on_where_it_was(old: SqlStore) -> None:
    brain = Brain(old)
    brain.clock.now_s = 1010.0
    brain.tick(3)
    before = brain.rollout()
    assert (before["state"], before["candidate"], before["step"]) == ("canary", 3, 1)
    assert before["checks"][0]["words"] == "error rate: candidate -1 % to 9.12 % worse than stable, limit 2 %: waiting"
    assert brain.call("rollout.history", model="digits")["rollouts"][1]["state"] == "rolled_back"
    for _ in range(2):
        brain.score(1, rows=9000, calls=900, scorer="s2")
        brain.score(3, rows=9000, calls=900, scorer="s2")
        brain.tick(12)
    assert brain.controller.table.routes["digits"].stable == 3
    assert brain.rollout()["state"] == "promoted"


@pytest.fixture
def yesterday(tmp_path: Path) -> Iterator[SqlStore]:
    """A store as 7cefeb6 wrote it: a rollout that is paused, a version kept warm, a schedule under way, a stream with notes."""
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as written:
        written.executescript((FIXTURE.parent / "store-7cefeb6.sql").read_text())
    written.close()
    store = SqlStore(f"sqlite:///{path}")
    yield store
    store.close()


def test_yesterdays_store_opens_and_what_it_had_under_way_goes_on(yesterday: SqlStore) -> None:
    state = yesterday.load()
    assert (state.models["digits"].retries, state.rollouts[3].illness, state.rollouts[3].warmed_s) == ({}, Illness(), 0.0)
    assert state.feeds["stream--scores"].notes == {"begins/in/0": "17"}
    assert {key.caller for key in state.evidence} <= {""}
    assert state.rollouts[3].misses.parts == {}
    told = yesterday.audit_records(0, 1000)
    assert TreeHead().adding(one.document.encode() for one in told) == yesterday.audit_head()
    assert [one.number for one in told] == list(range(len(told)))
    assert yesterday.audit_records(len(told) - 1, 5) == told[-1:]
    brain = Brain(yesterday)
    brain.clock.now_s = 1110.0
    brain.tick(3)
    assert brain.rollout()["paused"] is True
    brain.call("rollout.resume", model="digits", actor="ann")
    brain.call("feed.resume", kind="stream", name="scores")
    brain.tick(2)
    route = brain.controller.table.routes["digits"]
    assert (route.stable, route.candidate, route.weight, set(route.targets)) == (2, 3, 1000, {1, 2, 3})
    assert set(brain.streams.running) == {"scores"}
    assert {app.target_replicas for app in brain.fleet.state().values()} == {2}
    nightly = brain.call("feed.show", kind="batch", name="nightly")
    assert [fire["state"] for fire in nightly["schedule"]["fires"]] == ["running", "skipped"]


def go_back_to(revision: str, connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(versions.__file__).parent.parent))
    config.attributes["connection"] = connection
    command.downgrade(config, revision)


def test_who_has_used_a_model_is_known_after_an_upgrade_and_after_going_back(tmp_path: Path) -> None:
    url, ann = f"sqlite:///{tmp_path / 'store.db'}", CallerOf("digits", "key ann/bob")
    engine = sa.create_engine(url)
    insert = sa.text("INSERT INTO first_uses (key, document) VALUES (:key, :document)")
    document = '{"principal":"key ann/bob","model":"digits","at_s":5.0}'
    with engine.begin() as connection:
        migrate_to("0008", connection)
        connection.execute(insert, {"key": "digits/key ann/bob", "document": document})
    before_s = time.time()
    store = SqlStore(url)
    last_s = store.seen([ann])[ann]
    assert before_s <= last_s <= time.time()  # when it was last was not known: it counts from now
    store.close()
    with engine.begin() as connection:
        go_back_to("0008", connection)
        ((key, kept),) = connection.execute(sa.text("SELECT key, document FROM first_uses")).all()
    assert (key, json.loads(kept)["principal"]) == ("digits/key ann/bob", "key ann/bob")
    engine.dispose()


def test_branches_of_subject_keys_are_not_dropped_on_the_way_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    store, branches = SqlStore(url), {"subjects/8/0": b"sealed"}
    state = store.load()
    store.save(store.acquire(), state, state, (), branches=branches)
    engine = sa.create_engine(url)
    with pytest.raises(Conflict, match="in branches, which would be lost"), engine.begin() as connection:
        go_back_to("0008", connection)
    assert store.branches(list(branches)) == branches
    store.close()
    engine.dispose()
