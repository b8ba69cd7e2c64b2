"""Ends the processes of a run: by pid and start time, by session, and by the run's id in their environment. Never by name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

from deployments.gateway.door.settings import RUN_VARIABLE
from headrace.local.run_state import RunState


def of_run(state: RunState, home: Path) -> list[psutil.Process]:
    """Every process of the run that still lives.

    Ray's workers rename themselves, which wipes their environment: they are known by the session of the process that
    started them, together with the folder they work in. So neither a reused pid nor another's Ray is ever among them.
    """
    named = {one.pid: process for one in state.processes if (process := one.find()) is not None}
    sessions = {one.pid for one in state.processes if not one.is_replaced()}
    found = dict(named)
    for process in psutil.process_iter():
        if process.pid not in found and process.pid != os.getpid() and _belongs(process, state.run_id, sessions, home):
            found[process.pid] = process
    return list(found.values())


def _belongs(process: psutil.Process, run_id: str, sessions: set[int], home: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(RUN_VARIABLE) == run_id:
            return True
        return os.getsid(process.pid) in sessions and process.cwd() == str(home.resolve())  # the kernel follows links too
    except (psutil.Error, OSError):
        return False  # it ended while we looked, or it is another user's


def end(processes: Iterable[psutil.Process], *, timeout_s: float) -> None:
    """SIGTERM, then SIGKILL after `timeout_s`. What lives on after that, only the kernel can explain."""
    asked = [process for process in processes if _signal(process, kill=False)]
    _, alive = psutil.wait_procs(asked, timeout=timeout_s)
    killed = [process for process in alive if _signal(process, kill=True)]
    psutil.wait_procs(killed, timeout=5.0)


def _signal(process: psutil.Process, *, kill: bool) -> bool:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        return False
    return True
