"""The durable store: SQLite by default, PostgreSQL by URL, through SQLAlchemy Core."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from pydantic import TypeAdapter
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cluster.audit.kinds import APART
from cluster.audit.merkle import TreeHead
from cluster.audit.uses import CallerOf, SeenCallers
from cluster.errors import BadInput, Forbidden, Unreachable
from cluster.state import AuditEvent, State
from cluster.store.holder import Holder
from cluster.store.memory import fenced, pruned_before
from cluster.store.port import NO_BRANCHES, AuditRecord
from cluster.store.rows import HOLDER, TABLES, changes, from_rows, holder_in, holder_row

BUSY_TIMEOUT_S = 5.0
# Of PostgreSQL: a machine that loses its power says goodbye to nobody, and the kernel would wait for it for a quarter of an hour.
SILENT_AT_MOST_S = 20
KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 1000 * SILENT_AT_MOST_S}
_MIGRATIONS = Path(__file__).parent / "migrations"
_DISK_FULL = "53100"  # of PostgreSQL
_MIGRATION_LOCK = 0x48454144  # any number that is ours: PostgreSQL's advisory lock

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
        self._engine = _engine(url, busy_timeout_s)
        self._where = self._engine.url.render_as_string(hide_password=True)
        try:
            with self._transaction() as connection:
                _migrate(connection)
        except CommandError as error:
            raise BadInput(
                f"the store was written by another Headrace: {error}", where=self._where, remedy="use the newest Headrace"
            ) from error

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

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """All of it or nothing; what the driver raises becomes Unreachable."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except ProgrammingError:
            raise  # a mistake of ours, not the world's
        except (DBAPIError, PoolTimeout) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if _is_full(cause):
                remedy = "make room on the store's disk; scoring goes on, and what it counts is recorded then"
                what = "the store's disk is full: nothing can be recorded in the audit, so nothing is changed"
                raise Unreachable(what, where=self._where, remedy=remedy) from error
            raise Unreachable(
                f"the store does not answer: {cause}", where=self._where, remedy="check that it runs, is free and can be written"
            ) from error


def ask_store(url: str) -> None:
    """Connects to the store, and changes nothing; a SQLite file that is not there yet is none to ask.

    Raises BadInput for a bad URL, Unreachable where it does not answer, Forbidden where its tables could not be made.
    """
    engine = _engine(url, BUSY_TIMEOUT_S, make_folder=False)
    where, file = engine.url.render_as_string(hide_password=True), engine.url.database
    try:
        if engine.dialect.name == "sqlite" and (not file or not Path(file).exists()):
            return
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                may = connection.execute(sa.text("SELECT has_schema_privilege(current_schema(), 'CREATE')")).scalar()
                if not may:
                    remedy = "give its user the right to CREATE in the schema, or a database of its own"
                    raise Forbidden("the store's user may not make tables", where=where, remedy=remedy)
            else:
                connection.execute(sa.select(sa.literal(1)))
    except DBAPIError as error:
        remedy = "check that it runs, and that this machine may reach it"
        raise Unreachable(f"the store does not answer: {error.orig}", where=where, remedy=remedy) from error
    finally:
        engine.dispose()


def patience_with(url: sa.URL, busy_timeout_s: float) -> dict[str, int]:
    """How long PostgreSQL is waited for, where the URL itself does not say. Pure."""
    if url.get_backend_name() != "postgresql":
        return {}
    usual = {"connect_timeout": max(1, round(busy_timeout_s)), **KEEPALIVES}
    return {name: value for name, value in usual.items() if name not in url.query}


def _engine(url: str, busy_timeout_s: float, *, make_folder: bool = True) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return sa.create_engine(parsed, pool_pre_ping=True, connect_args=patience_with(parsed, busy_timeout_s))
        if parsed.database and make_folder:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed, connect_args={"timeout": busy_timeout_s})
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:  # ValueError: a port that is no number
        remedy = "write it like sqlite:///store.db or postgresql+psycopg://user@host/database, and install the database's driver"
        raise BadInput(f"not a usable store URL: {error}", where="store", remedy=remedy) from error
    except OSError as error:
        raise Unreachable(f"the store's folder can't be made: {error}", where=url, remedy="choose another folder") from error
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    # The driver's own transaction handling begins them late; we say BEGIN ourselves.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    # What is erased is not left in free pages.
    connection.execute("PRAGMA secure_delete=ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    # At once a writer: one that begins to write later can fail without waiting.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _migrate(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    migrate_to("head", connection)


def migrate_to(revision: str, connection: sa.Connection) -> None:
    """Brings the schema up to that revision, in the connection's transaction. Raises CommandError where it is beyond ours."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _is_full(cause: BaseException | None) -> bool:
    """Whether there is no room for a write: SQLite's code, or PostgreSQL's state."""
    return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or getattr(cause, "sqlstate", None) == _DISK_FULL


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
