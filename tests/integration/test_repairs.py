"""`headrace up` over a run of which a part is away: that part alone comes back, and what serves is never ended for it."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing

import httpx
import psutil
import pytest

from headrace.local.processes import alive_after, of_run
from headrace.local.repairs.parts import HELPERS
from headrace.local.run_state import RAYLET
from tests.support.machine import Machine
from tests.support.waiting import until

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]


def titled(machine: Machine, title: str) -> psutil.Process:
    """The process of the run with this title."""
    (found,) = [one for one in of_run(machine.state(), machine.home.root) if " ".join(one.cmdline()).startswith(title)]
    return found


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    alive_after([process], timeout_s=20)


def test_what_is_away_comes_back_alone(machine: Machine) -> None:
    machine.up()
    before = machine.state()
    serving = titled(machine, "ray::ServeReplica:gateway:")
    for role in HELPERS:
        ended = before.process(role)
        assert ended is not None
        os.kill(ended.pid, signal.SIGKILL)

    repaired = machine.up()

    assert repaired["started"] is False
    assert repaired["repaired"] == [str(role) for role in HELPERS]
    after = machine.state()
    assert after.run_id == before.run_id
    assert after.process(RAYLET) == before.process(RAYLET)
    assert all((now := after.process(role)) is not None and now.find() is not None for role in HELPERS)
    assert serving.is_running()
    assert [node["state"] for node in machine.answer("status")["nodes"]] == ["alive"]  # asked of the dashboard

    # The store is locked and the controller dead: it waits, says for what, and what serves is left alone.
    with closing(sqlite3.connect(machine.home.store, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        kill(titled(machine, "ray::ControllerActor"))
        refused = machine.run("up", *machine.ports)
        assert refused.returncode == 5, refused.stderr
        assert "waits, and what serves goes on" in refused.stderr
        assert "locked" in refused.stderr
        assert serving.is_running()
        assert httpx.get(f"{after.addresses.http}/v2/health/live", timeout=30, trust_env=False).json() == {"live": True}
        lock.execute("ROLLBACK")
    until(lambda: machine.run("status").returncode == 0, 120)
    assert machine.up() == {"started": False, "repaired": [], "addresses": after.addresses.model_dump()}
    assert serving.is_running()
    assert machine.answer("down")["drained"] is True
