"""`headrace up`, `status` and `down` on a home of its own, as a user runs them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace.local.home import Home
from headrace.local.processes import of_run
from headrace.local.run_state import Phase, RunState, load_run
from tests.broker import free_port

LIMIT_S = 280
pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Machine:
    """One home, and the command line on it."""

    home: Home
    ports: tuple[str, ...]

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HEADRACE_", "KAFKA_"))}
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("headrace")), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "HEADRACE_HOME": str(self.home.root)},
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words) as process:
            try:
                out, err = process.communicate(timeout=LIMIT_S)
            finally:
                process.kill()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def answer(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def up(self) -> Any:
        return self.answer("up", *self.ports)

    def state(self) -> RunState:
        state = load_run(self.home)
        assert state is not None
        return state


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    options = ("--http-port", "--grpc-port", "--dashboard-port")
    ports = tuple(word for option in options for word in (option, str(free_port())))
    machine = Machine(Home(tmp_path / "home"), (*ports, "--num-cpus", "2"))
    yield machine
    machine.run("down", "--drain-timeout", "1")
    state = load_run(machine.home)
    left = of_run(state, machine.home.root) if state else []
    for process in left:
        process.kill()
    assert not left


def family(machine: Machine) -> list[psutil.Process]:
    """Everything that the run has started, down to the last child."""
    found = {process.pid: process for process in of_run(machine.state(), machine.home.root)}
    for process in list(found.values()):
        found |= {child.pid: child for child in process.children(recursive=True)}
    return list(found.values())


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, rest = psutil.wait_procs(processes, timeout=20)
    return [process for process in rest if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_up_status_kill_up_down(machine: Machine, tmp_path: Path) -> None:
    assert machine.up()["started"] is True
    first = machine.state()
    assert first.phase is Phase.RUNNING
    seen = machine.answer("status")
    assert seen["addresses"]["http"].endswith(machine.ports[1])
    assert seen["nodes"][0]["resources"]["CPU"] == 2

    # A second one changes nothing.
    assert machine.up()["started"] is False
    assert machine.state() == first

    document = tmp_path / "model.yaml"
    document.write_text("kind: Model\nname: digits\nserving: {scaling: manual}\n")
    applied = machine.answer("apply", "-f", str(document))
    assert [change["action"] for change in applied["changes"]] == ["created"]

    # Ray dies at once; what was applied does not.
    before = family(machine)
    os.kill(first.processes[0].pid, signal.SIGKILL)
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
