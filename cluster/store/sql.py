"""The durable store: its tables, and what is read and written in one transaction, through SQLAlchemy Core."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from cluster.audit.kinds import APART
from cluster.audit.merkle import TreeHead
from cluster.audit.uses import CallerOf, SeenCallers
from cluster.state import AuditEvent, State
from cluster.store.engine import BUSY_TIMEOUT_S, open_database, transaction
from cluster.store.holder import Holder
from cluster.store.memory import fenced, pruned_before
from cluster.store.port import NO_BRANCHES, AuditRecord
from cluster.store.rows import HOLDER, TABLES, changes, from_rows, holder_in, holder_row

_meta = sa.MetaData()
_records = {
    name: sa.Table(name, _meta, sa.Column("key", sa.Text, primary_key=True), sa.Column("document", sa.Text)) for name in TABLES
}
_control = _records["control"]
_branches = sa.Table("subject_branches", _meta, sa.Column("key", sa.Text, primary_key=True), sa.Column("sealed", sa.LargeBinary))
_audit = sa.Table(
    "audit",
    _meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at_s", sa.Double),
    sa.Column("model", sa.Text),
    sa.Column("document", sa.Text),
    sa.Column("number", sa.BigInteger),
)
_tree = sa.Table(
    "audit_tree",
    _meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("size", sa.BigInteger),
    sa.Column("edge", sa.Text),
)
_seen = sa.Table(
    "seen_callers",
    _meta,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("principal", sa.Text, primary_key=True),
    sa.Column("last_s", sa.Double),
)
_APART = "(apart)"  # no model is named so
_WHOLE, _PRUNED = 1, 2  # of the tree's rows
_fence = sa.Table("fence", _meta, sa.Column("id", sa.Integer, primary_key=True), sa.Column("number", sa.BigInteger))
_EVENT = TypeAdapter(AuditEvent)


class SqlStore:
    """A Store over SQLAlchemy. Opening it brings its schema up to date.

    `url` is an SQLAlchemy URL, e.g. `sqlite:////var/lib/headrace/store.db` or `postgresql+psycopg://user@host/database`; an
    SQLite file's folder is made. Raises BadInput for a bad URL or a store of a newer Headrace, Unreachable where it can't be
    opened.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self._engine = open_database(url, busy_timeout_s)

    def acquire(self, by: Holder | None = None) -> int:
        with self._transaction() as connection:
            last = connection.execute(sa.select(_fence.c.number).with_for_update()).scalar_one()
            number = max(int(last) + 1, int(time.time()))
            connection.execute(sa.update(_fence).values(number=number))
            _put(connection, _control, _control.c.document, {} if by is None else {HOLDER: holder_row(by)}, [HOLDER])
            return number

    def holder(self) -> Holder | None:
        wanted = sa.select(_control.c.document).where(_control.c.key == HOLDER)
        with self._transaction() as connection:
            document = connection.execute(wanted).scalar_one_or_none()
        return None if document is None else holder_in(document)

    def renew(self, fence: int, by: Holder) -> None:
        renewed = sa.update(_control).where(_control.c.key == HOLDER).values(document=holder_row(by))
        with self._transaction() as connection:
            _check_fence(connection, fence)
            connection.execute(renewed)

    def load(self) -> State:
        with self._transaction() as connection:
            rows = {name: _read(connection, table) for name, table in _records.items()}
        rows[_control.name].pop(HOLDER, None)
        return from_rows(rows)

    def save(
        self,
        fence: int,
        before: State,
        after: State,
        events: Sequence[AuditEvent],
        seen: SeenCallers | None = None,
        branches: Mapping[str, bytes] = NO_BRANCHES,
    ) -> None:
        written, deleted = changes(before, after)
        with self._transaction() as connection:
            _check_fence(connection, fence)
            for name in TABLES:
                table = _records[name]
                _put(connection, table, table.c.document, written.get(name, {}), deleted.get(name, []))
            _put(connection, _branches, _branches.c.sealed, branches)
            _append(connection, events)
            if gone := deleted.get("models"):
                connection.execute(sa.delete(_seen).where(_seen.c.model.in_(gone)))
            if seen is not None:
                _remember(connection, seen)

    def seen(self, callers: Collection[CallerOf]) -> Mapping[CallerOf, float]:
        if not callers:
            return {}
        asked = sa.select(_seen).where(sa.tuple_(_seen.c.model, _seen.c.principal).in_(sorted(callers)))
        with self._transaction() as connection:
            return {CallerOf(row.model, row.principal): float(row.last_s) for row in connection.execute(asked)}

    def seen_count(self) -> int:
        with self._transaction() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(_seen)).scalar_one())

    def branches(self, stored_as: Sequence[str]) -> Mapping[str, bytes]:
        wanted = sa.select(_branches.c.key, _branches.c.sealed).where(_branches.c.key.in_(stored_as))
        with self._transaction() as connection:
            return {row.key: row.sealed for row in connection.execute(wanted)}

    def prune(self, fence: int, to: TreeHead, events: Sequence[AuditEvent]) -> None:
        with self._transaction() as connection:
            _check_fence(connection, fence)
            if to.size > _head(connection, _PRUNED).size:
                connection.execute(sa.delete(_audit).where(_audit.c.number < to.size))
                _set_head(connection, to, _PRUNED)
            _append(connection, events)

    def audit(self, model: str, limit: int = 1000) -> list[AuditEvent]:
        newest = sa.select(_audit.c.document).where(_audit.c.model == model).order_by(_audit.c.id.desc()).limit(limit)
        with self._transaction() as connection:
            return [_EVENT.validate_json(text) for text in reversed(connection.execute(newest).scalars().all())]

    def audit_head(self) -> TreeHead:
        with self._transaction() as connection:
            return _head(connection)

    def audit_pruned(self) -> TreeHead:
        with self._transaction() as connection:
            return _head(connection, _PRUNED)

    def audit_records(self, first: int, limit: int) -> list[AuditRecord]:
        with self._transaction() as connection:
            pruned = _head(connection, _PRUNED).size
            if first < pruned:
                raise pruned_before(pruned)
            wanted = sa.select(_audit.c.document).where(_audit.c.number >= first).order_by(_audit.c.number).limit(limit)
            return [AuditRecord(first + at, text) for at, text in enumerate(connection.execute(wanted).scalars())]

    def close(self) -> None:
        self._engine.dispose()

    def _transaction(self) -> AbstractContextManager[sa.Connection]:
        return transaction(self._engine)


def _read(connection: sa.Connection, table: sa.Table) -> dict[str, str]:
    return {row.key: row.document for row in connection.execute(sa.select(table.c.key, table.c.document))}


def _put(
    connection: sa.Connection, table: sa.Table, column: sa.Column[Any], rows: Mapping[str, str | bytes], gone: Sequence[str] = ()
) -> None:
    """These rows in place of those of the same keys, and of those that are gone."""
    keys = [*gone, *rows]
    if keys:
        connection.execute(sa.delete(table).where(table.c.key == sa.bindparam("gone")), [{"gone": key} for key in keys])
    if rows:
        connection.execute(sa.insert(table), [{"key": key, column.name: value} for key, value in rows.items()])


def _check_fence(connection: sa.Connection, fence: int) -> None:
    """Locks the row: a controller that acquires now waits for this write, or this write sees it. Raises Fenced."""
    number = connection.execute(sa.select(_fence.c.number).with_for_update()).scalar_one()
    if number != fence:
        raise fenced()


def _head(connection: sa.Connection, of: int = _WHOLE) -> TreeHead:
    row = connection.execute(sa.select(_tree.c.size, _tree.c.edge).where(_tree.c.id == of)).one()
    return TreeHead(int(row.size), tuple(bytes.fromhex(node) for node in row.edge.split()))


def _set_head(connection: sa.Connection, head: TreeHead, of: int = _WHOLE) -> None:
    edge = " ".join(node.hex() for node in head.edge)
    connection.execute(sa.update(_tree).where(_tree.c.id == of).values(size=head.size, edge=edge))


def _remember(connection: sa.Connection, callers: SeenCallers) -> None:
    rows = [{"of": one.model, "who": one.principal, "at": last_s} for one, last_s in callers.seen.items()]
    connection.execute(
        sa.delete(_seen).where(_seen.c.model == sa.bindparam("of"), _seen.c.principal == sa.bindparam("who")), rows
    )
    connection.execute(
        sa.insert(_seen).values(model=sa.bindparam("of"), principal=sa.bindparam("who"), last_s=sa.bindparam("at")), rows
    )
    connection.execute(sa.delete(_seen).where(_seen.c.last_s < callers.forget_s))


def _append(connection: sa.Connection, events: Sequence[AuditEvent]) -> None:
    """To the audit, and its tree."""
    if not events:
        return
    head = _head(connection)
    rows = [_audit_row(number, event) for number, event in enumerate(events, head.size)]
    connection.execute(sa.insert(_audit), rows)
    _set_head(connection, head.adding(row["document"].encode() for row in rows))


def _audit_row(number: int, event: AuditEvent) -> dict[str, Any]:
    # The column is for a model's history alone: these are found by their numbers.
    model = event.model if event.event not in APART else _APART
    return {"number": number, "at_s": event.at_s, "model": model, "document": _EVENT.dump_json(event).decode()}
