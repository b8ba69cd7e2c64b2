"""`headrace up`, `status` and `down` on a home of its own, as a user runs them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from headrace.local.processes import alive_after, of_run
from headrace.local.run_state import RAYLET, Phase, load_run
from tests.support.machine import Machine

pytestmark = pytest.mark.timeout(900)


def family(machine: Machine) -> list[psutil.Process]:
    """Everything that the run has started, down to the last child."""
    found = {process.pid: process for process in of_run(machine.state(), machine.home.root)}
    for process in list(found.values()):
        found |= {child.pid: child for child in process.children(recursive=True)}
    return list(found.values())


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    rest = alive_after(processes, timeout_s=20)
    return [process for process in rest if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_up_status_kill_up_down(machine: Machine, tmp_path: Path) -> None:
    assert machine.up()["started"] is True
    first = machine.state()
    assert first.phase is Phase.RUNNING
    seen = machine.answer("status")
    assert seen["addresses"]["http"].endswith(machine.ports[1])
    assert seen["nodes"][0]["resources"]["CPU"] == 2

    # A second one changes nothing. Its link opens the console as who started all this, without his key.
    again = machine.run("up", *machine.ports)
    assert again.stdout.startswith("already up")
    assert machine.state() == first
    url, code = re.findall(r"(http\S+)/console/#code=(\S+)", again.stdout)[0]
    with httpx.Client(base_url=url, headers={"origin": url}, trust_env=False) as browser:
        assert browser.get("/console/me").json()["anonymous"] is True
        assert browser.post("/console/login", json={"code": code}).status_code == 200
        assert browser.get("/console/me").json()["name"].startswith("home ")
        assert browser.post("/console/login", json={"code": code}).status_code == 401

    document = tmp_path / "model.yaml"
    document.write_text("kind: Model\nname: digits\nserving: {scaling: manual}\n")
    applied = machine.answer("apply", "-f", str(document))
    assert [change["action"] for change in applied["changes"]] == ["created"]

    # Ray dies at once; what was applied does not.
    before = family(machine)
    os.kill(machine.pid_of(RAYLET), signal.SIGKILL)
    assert machine.run("status").returncode == 5
    assert machine.up()["started"] is True
    assert machine.state().run_id != first.run_id
    assert alive(before) == []
    assert [model["name"] for model in machine.answer("status")["models"]] == ["digits"]
    assert [change["action"] for change in machine.answer("apply", "-f", str(document))["changes"]] == ["unchanged"]

    last = family(machine)
    assert machine.answer("down")["drained"] is True
    assert alive(last) == []
    assert load_run(machine.home) is None
    assert machine.answer("down")["was_running"] is False


def test_a_kill_of_up_itself_leaves_nothing_that_down_does_not_find(machine: Machine) -> None:
    with machine.start("up", *machine.ports) as up:
        while up.poll() is None and not ((state := load_run(machine.home)) and state.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                up.wait(0.05)
        up.kill()
    left = family(machine)
    assert left
    assert machine.run("down").returncode == 0
    assert alive(left) == []
    assert load_run(machine.home) is None
