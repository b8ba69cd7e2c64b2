"""A home of its own, and the command line on it, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace.local.home import Home
from headrace.local.ports import free_port
from headrace.local.processes import of_run
from headrace.local.run_state import RunState, load_run

LIMIT_S = 280


@dataclass(frozen=True)
class Machine:
    """One home, and the command line on it."""

    home: Home
    ports: tuple[str, ...]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begins a command; the caller's to wait for."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HEADRACE_", "KAFKA_"))}
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("headrace")), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "HEADRACE_HOME": str(self.home.root)},
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        with self.start(*words) as process:
            try:
                out, err = process.communicate(timeout=LIMIT_S)
            finally:
                process.kill()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def answer(self, *words: str) -> Any:
        """What a command that goes well says, as JSON."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def up(self) -> Any:
        """`headrace up` on ports of its own."""
        return self.answer("up", *self.ports)

    def state(self) -> RunState:
        """What runs."""
        state = load_run(self.home)
        assert state is not None
        return state

    def pid_of(self, role: str) -> int:
        """The process of that role."""
        process = self.state().process(role)
        assert process is not None
        return process.pid


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """One where nothing runs yet; whatever does in the end is ended."""
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
