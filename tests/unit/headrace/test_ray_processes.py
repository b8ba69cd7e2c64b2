"""Which processes are Ray's own, and how one is started again alone; over plain processes."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from cluster.errors import Unreachable
from headrace.local.home import Home, read_settings
from headrace.local.processes import of_run
from headrace.local.ray.processes import role_of, start_again
from headrace.local.repairs.look import look
from headrace.local.repairs.parts import RunPart
from headrace.local.run_state import GCS, RAY, RAYLET, Addresses, Phase, RunState, StartedProcess, load_run, save_run, started
from tests.support.waiting import until

RUN_ID = uuid.uuid4().hex  # a run of the same id elsewhere would end these
SLEEP = (sys.executable, "-c", "import time; time.sleep(120)")
ENDED = StartedProcess(role=RAY, pid=os.getpid(), created_s=1.0)


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (("/venv/ray/core/src/ray/gcs/gcs_server", "--log_dir=/x"), "gcs_server"),
        (("/venv/ray/core/src/ray/raylet/raylet", "--dashboard_agent_command=/venv/ray/dashboard/agent.py"), "raylet"),
        (("python", "/venv/ray/dashboard/dashboard.py", "--port=8265"), "dashboard"),
        (("python", "-u", "/venv/ray/autoscaler/_private/monitor.py"), None),
        (("python", "-m", "ray.util.client.server", "--mode=proxy"), "client server"),
        (("python", "-u", "/venv/ray/dashboard/agent.py"), None),
        (("ray::Gateway",), None),
        ((), None),
    ],
)
def test_a_process_is_known_by_its_command_line(command: tuple[str, ...], role: str | None) -> None:
    assert role_of(command) == role


def run(*processes: StartedProcess) -> RunState:
    return RunState(run_id=RUN_ID, phase=Phase.RUNNING, started_s=1.0, owns_ray=True, processes=processes, addresses=Addresses())


def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.make()
    return made


def test_one_that_ended_is_started_again_in_the_environment_of_the_gcs(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP, env={**os.environ, "HEADRACE_RUN_ID": RUN_ID}) as gcs:
        until(lambda: bool(psutil.Process(gcs.pid).environ()), 10.0, every_s=0.01)  # Linux shows it a moment after the start
        ended = ENDED.model_copy(update={"role": RunPart.CLIENT_SERVER, "command": SLEEP})
        again = start_again(home(tmp_path), run(started(GCS, gcs.pid), ended), RunPart.CLIENT_SERVER)
        process = again.find()
        try:
            assert process is not None
            assert (again.role, again.command) == (RunPart.CLIENT_SERVER, SLEEP)
            assert process.environ()["HEADRACE_RUN_ID"] == RUN_ID
            assert os.getsid(process.pid) == process.pid
        finally:
            psutil.Process(again.pid).kill()
            gcs.kill()


def test_one_that_ends_at_once_says_why(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as gcs:
        ended = ENDED.model_copy(update={"role": RunPart.CLIENT_SERVER, "command": ("/bin/sh", "-c", "echo no such GCS; exit 1")})
        try:
            with pytest.raises(Unreachable, match="client server ended with status 1: no such GCS"):
                start_again(home(tmp_path), run(started(GCS, gcs.pid), ended), RunPart.CLIENT_SERVER)
        finally:
            gcs.kill()


def test_without_a_gcs_nothing_is_started(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="nothing says how"):
        start_again(
            home(tmp_path), run(ENDED.model_copy(update={"role": RunPart.CLIENT_SERVER, "command": SLEEP})), RunPart.CLIENT_SERVER
        )


def test_ray_lives_by_its_raylet_and_its_gcs() -> None:
    with subprocess.Popen(SLEEP) as one:
        raylet, gcs = started(RAYLET, one.pid), started(GCS, one.pid)
        try:
            assert run(ENDED, raylet, gcs).ray_lives()
            assert not run(ENDED, raylet, ENDED.model_copy(update={"role": GCS})).ray_lives()
            assert not run(ENDED, ENDED.model_copy(update={"role": RAYLET}), gcs).ray_lives()
            assert run().model_copy(update={"owns_ray": False}).ray_lives()
            assert not run().ray_lives()
        finally:
            one.kill()


YESTERDAYS = """{"run_id": "6b2b", "phase": "running", "started_s": 1795981176.1, "owns_ray": true,
 "processes": [{"role": "ray", "pid": %d, "created_s": %f}],
 "addresses": {"http": "http://127.0.0.1:8000", "grpc": null, "dashboard": null, "ray": "127.0.0.1:1", "broker": null}}"""


def test_a_run_of_version_0_1_is_read_and_lives_by_its_supervisor(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as supervisor:
        (tmp_path / "run.json").write_text(YESTERDAYS % (supervisor.pid, psutil.Process(supervisor.pid).create_time()))
        state = load_run(Home(tmp_path))
        try:
            assert state is not None
            assert state.options is None
            assert state.ray_lives()
        finally:
            supervisor.kill()
    assert not state.ray_lives()


def test_a_part_that_is_not_started_any_more_is_not_missed(tmp_path: Path) -> None:
    """run.json of yesterday names Ray's monitor too: whoever takes over leaves it, and `down` ends it."""
    with subprocess.Popen(SLEEP) as one:
        monitor = started("monitor", one.pid).model_copy(update={"command": SLEEP})
        save_run(home(tmp_path), run(started(RAYLET, one.pid), started(GCS, one.pid), monitor))
        state = load_run(Home(tmp_path))
        assert state is not None
        assert one.pid in {process.pid for process in of_run(state, tmp_path)}
        gone = state.with_process(monitor.model_copy(update={"created_s": 1.0}))
        with_address = gone.model_copy(update={"addresses": Addresses(ray="127.0.0.1:1")})
        try:
            settings = read_settings({"HEADRACE_HOME": str(tmp_path)})
            assert {away.part for away in look(with_address, settings)} == {RunPart.GATEWAY}
        finally:
            one.kill()
