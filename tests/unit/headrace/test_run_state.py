"""run.json: atomic, and never a wrong process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.errors import Conflict
from deployments.gateway.door.settings import RUN_VARIABLE
from headrace.local.home import Home, read_settings, without_password
from headrace.local.lock import only_one
from headrace.local.processes import alive_after, end, of_run
from headrace.local.run_state import (
    Phase,
    RunState,
    StartedProcess,
    clear_run,
    load_run,
    save_run,
    started,
)
from tests.support.waiting import until

RUN_ID = uuid.uuid4().hex  # other tests and other runs of them look at the same processes
SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, RUN_VARIABLE: RUN_ID}
    process = subprocess.Popen(SLEEP, env=environment, cwd=tmp_path, start_new_session=True)
    # Linux shows a process's environment a moment after its start.
    until(lambda: bool(psutil.Process(process.pid).environ()), 10.0, every_s=0.01)
    yield process
    process.kill()
    process.wait()


def run(*processes: StartedProcess, run_id: str = "other") -> RunState:
    return RunState(run_id=run_id, phase=Phase.RUNNING, started_s=1.0, owns_ray=True, processes=processes)


def test_what_is_saved_is_read_back_and_nothing_else_lies_around(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert load_run(home) is None
    state = run(StartedProcess(role="ray", pid=7, created_s=3.5))
    save_run(home, state)
    assert load_run(home) == state
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    clear_run(home)
    clear_run(home)
    assert load_run(home) is None


def test_a_file_of_something_else_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(Conflict, match=r"run\.json"):
        load_run(Home(tmp_path))


def test_a_reused_pid_is_not_the_process(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    mine = started("ray", sleeper.pid)
    assert mine.find() is not None
    former = mine.model_copy(update={"created_s": mine.created_s - 60})
    assert former.find() is None
    assert of_run(run(former), tmp_path / "elsewhere") == []


def test_a_run_is_known_by_pid_by_its_id_and_by_its_session(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert [p.pid for p in of_run(run(started("ray", sleeper.pid)), tmp_path)] == [sleeper.pid]
    assert [p.pid for p in of_run(run(run_id=RUN_ID), tmp_path)] == [sleeper.pid]
    assert of_run(run(), tmp_path) == []


def test_a_zombie_still_has_its_session(tmp_path: Path) -> None:
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0).pid, flush=True); input()"
    leader = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, start_new_session=True
    )
    assert leader.stdin is not None
    assert leader.stdout is not None
    try:
        state = run(started("ray", leader.pid))
        child = int(leader.stdout.readline())
        leader.kill()
        os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has reaped it
        assert state.processes[0].find() is None
        assert [process.pid for process in of_run(state, tmp_path)] == [child]
        (tmp_path / "link").symlink_to(tmp_path)
        assert [process.pid for process in of_run(state, tmp_path / "link")] == [child]
    finally:
        leader.stdin.close()
        leader.wait()
        leader.stdout.close()


def test_end_ends_and_is_safe_to_repeat(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    found = of_run(run(run_id=RUN_ID), tmp_path)
    end(found, timeout_s=5)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in found)
    end(found, timeout_s=5)


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EINVAL])
def test_a_process_that_is_just_being_reaped_has_ended(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    waited = psutil.Process(sleeper.pid)
    assert alive_after([waited], timeout_s=0) == [waited]

    def reaped_meanwhile(pid: int, flags: int = 0) -> int:
        sleeper.kill()
        sleeper.wait()
        raise OSError(error, "as Linux says it")

    monkeypatch.setattr(os, "pidfd_open", reaped_meanwhile)
    assert alive_after([waited], timeout_s=5) == []


def test_two_commands_never_meet_on_one_home(tmp_path: Path) -> None:
    with only_one(Home(tmp_path)), pytest.raises(Conflict, match="at work"), only_one(Home(tmp_path)):
        pass
    with only_one(Home(tmp_path)):
        pass


def test_settings_come_from_the_environment_alone(tmp_path: Path) -> None:
    settings = read_settings({"HEADRACE_HOME": str(tmp_path), "HEADRACE_URL": "", "HEADRACE_DEBUG": "0"})
    assert settings.store_url == f"sqlite:///{tmp_path}/store.db"
    assert settings.url is None
    assert not settings.debug
    other = read_settings({"HEADRACE_STORE_URL": "postgresql://db/headrace", "HEADRACE_DEBUG": "1"})
    assert other.store_url == "postgresql://db/headrace"
    assert other.debug
    assert other.home.root == Path.cwd() / ".headrace"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://ann:secret@db:5432/headrace", "postgresql+psycopg://ann:***@db:5432/headrace"),
        ("postgresql://ann:se@c/r:et@db/headrace", "postgresql://ann:***@db/headrace"),
        ("postgresql://ann@db:5432/headrace", "postgresql://ann@db:5432/headrace"),
        ("sqlite:////a:b@c/store.db", "sqlite:////a:b@c/store.db"),
    ],
)
def test_a_password_stays_out_of_sight(url: str, shown: str) -> None:
    assert without_password(url) == shown
