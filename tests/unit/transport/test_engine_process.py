"""An engine's own process: it ends when it should, whoever else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from cluster.errors import NoCapacity
from cluster.fleet.serving import Serving
from deployments.transport.engine_process import EngineGone, EngineProcess
from deployments.transport.transports import EmbeddedTransport
from headrace.local.processes import alive_after
from tests.support.models import INPUT, mlp_artifact, rows
from tests.support.own_process import OwnProcess
from tests.support.routing import target

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(mlp_artifact(tmp_path_factory.mktemp("good"))[0])


def await_end(pid: int) -> None:
    """Returns once no such process runs; a zombie that its parent has yet to reap does not."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    alive_after([process], timeout_s=PATIENCE_S)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_it_ends_when_it_is_let_go(good: Path) -> None:
    with closing(OwnProcess(good, threads=1)) as engine:
        engine.process.close()
        await_end(engine.process.pid)
        with pytest.raises(EngineGone):
            engine.score({INPUT: rows(1)})


def test_it_ends_with_the_last_reference(good: Path) -> None:
    engine = EngineProcess(good, threads=1)
    pid = engine.pid
    del engine
    await_end(pid)


@pytest.mark.thorough
def test_it_ends_with_a_caller_that_is_killed(good: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from deployments.transport.engine_process import EngineProcess
engine = EngineProcess(Path({str(good)!r}), threads=1)
print(engine.pid, flush=True)
time.sleep(600)
"""
    root = Path(__file__).parents[3]
    caller = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root)
    assert caller.stdout is not None
    with caller:
        try:
            pid = int(caller.stdout.readline())
            assert psutil.pid_exists(pid)
        finally:
            caller.kill()
    await_end(pid)


def test_a_call_under_way_is_told_when_the_process_is_killed(good: Path) -> None:
    engine = OwnProcess(good, threads=1)
    os.kill(engine.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, engine.process.pid, os.WSTOPPED)  # the signal takes a moment, in which the call would be answered
    seen: list[BaseException] = []

    def ask() -> None:
        try:
            engine.score({INPUT: rows(1)})
        except EngineGone as error:
            seen.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    os.kill(engine.process.pid, signal.SIGKILL)
    asking.join(PATIENCE_S)
    assert len(seen) == 1
    engine.close()


def test_it_is_killed_above_its_memory_limit(good: Path) -> None:
    def live() -> None:
        # It may be ready before the first look at its memory; then the next call finds it gone.
        with closing(OwnProcess(good, threads=1, memory_bytes=1 << 20)) as engine:
            await_end(engine.process.pid)
            engine.score({INPUT: rows(1)})

    with pytest.raises(NoCapacity):
        live()


@pytest.mark.anyio
async def test_a_transport_whose_process_ended_is_not_ready(good: Path, tmp_path: Path) -> None:
    started: list[EngineProcess] = []

    def start(one: object, serving: Serving) -> EngineProcess:
        started.append(EngineProcess(good, threads=1))
        return started[-1]

    transport, there = EmbeddedTransport(start), target(2, (str(good), "0" * 64, None))
    transport.keep({there.app: (there, Serving())})
    await transport.settled([there.app])
    assert (await transport.score(there, {INPUT: rows(3)}, PATIENCE_S)).failed == {}
    os.kill(started[0].pid, signal.SIGKILL)
    with pytest.raises(EngineGone):
        await transport.score(there, {INPUT: rows(3)}, PATIENCE_S)
    assert not transport.ready(there)
    transport.keep({there.app: (there, Serving())})
    await transport.settled([there.app])
    assert (await transport.score(there, {INPUT: rows(3)}, PATIENCE_S)).failed == {}
    await transport.close()
    await_end(started[1].pid)
