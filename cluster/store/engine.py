"""How a store's database is reached: SQLite by default, PostgreSQL by URL; and its schema, brought up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cluster.errors import BadInput, Forbidden, Unreachable

BUSY_TIMEOUT_S = 5.0
# Of PostgreSQL: a machine that loses its power says goodbye to nobody, and the kernel would wait for it for a quarter of an hour.
SILENT_AT_MOST_S = 20
KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 1000 * SILENT_AT_MOST_S}
_MIGRATIONS = Path(__file__).parent / "migrations"
_DISK_FULL = "53100"  # of PostgreSQL
_MIGRATION_LOCK = 0x48454144  # any number that is ours: PostgreSQL's advisory lock


def open_database(url: str, busy_timeout_s: float) -> sa.Engine:
    """The database with its schema up to date. Raises as `SqlStore` says; then no connection is left."""
    engine = _engine(url, busy_timeout_s)
    try:
        with transaction(engine) as connection:
            _migrate(connection)
    except CommandError as error:
        engine.dispose()
        where, remedy = shown(engine), "use the newest Headrace"
        raise BadInput(f"the store was written by another Headrace: {error}", where=where, remedy=remedy) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def shown(engine: sa.Engine) -> str:
    """Its URL without a password."""
    return engine.url.render_as_string(hide_password=True)


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """All of it or nothing; what the driver raises becomes Unreachable."""
    try:
        with engine.begin() as connection:
            yield connection
    except ProgrammingError:
        raise  # a mistake of ours, not the world's
    except (DBAPIError, PoolTimeout) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if _is_full(cause):
            remedy = "make room on the store's disk; scoring goes on, and what it counts is recorded then"
            what = "the store's disk is full: nothing can be recorded in the audit, so nothing is changed"
            raise Unreachable(what, where=shown(engine), remedy=remedy) from error
        raise Unreachable(
            f"the store does not answer: {cause}", where=shown(engine), remedy="check that it runs, is free and can be written"
        ) from error


def ask_store(url: str) -> None:
    """Connects to the store, and changes nothing; a SQLite file that is not there yet is none to ask.

    Raises BadInput for a bad URL, Unreachable where it does not answer, Forbidden where its tables could not be made.
    """
    engine = _engine(url, BUSY_TIMEOUT_S, make_folder=False)
    where, file = shown(engine), engine.url.database
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
