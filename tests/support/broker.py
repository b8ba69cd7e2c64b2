"""A real Kafka for the tests that need one: one for the whole run, on a free port, ended by pid whatever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.local.broker import start_broker, stop_broker
from headrace.local.ports import free_port


def jar_cache() -> Path:
    """Where the jars stay between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "headrace" / "jars"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of a real broker; `KAFKA_BOOTSTRAP_SERVERS` set means that one."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield given
        return
    home = tmp_path_factory.mktemp("broker")
    try:
        yield start_broker(home, port=free_port(), cache=jar_cache()).bootstrap
    finally:
        stop_broker(home)
