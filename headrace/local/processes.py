"""Ends the processes of a run: by pid and start time, by session, and by the run's id in their environment. Never by name."""

from __future__ import annotations

import os
import time
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
    killed = [process for process in alive_after(asked, timeout_s=timeout_s) if _signal(process, kill=True)]
    alive_after(killed, timeout_s=5.0)


def alive_after(processes: Iterable[psutil.Process], *, timeout_s: float) -> list[psutil.Process]:
    """Waits until all have ended; those that have not within `timeout_s`.

    `pidfd_open` of a process that is just being reaped fails with ENOENT or EINVAL on Linux since 6.14; psutil 7.2 knows only
    ESRCH (its issue 2715), and raises the error or, where /proc has lost it too, NoSuchProcess.
    """
    waited, ends_s = list(processes), time.monotonic() + timeout_s
    while True:
        try:
            return list(psutil.wait_procs(waited, timeout=max(ends_s - time.monotonic(), 0.0))[1])
        except (OSError, psutil.NoSuchProcess):
            waited = [process for process in waited if process.is_running()]
            if time.monotonic() > ends_s:
                return waited


def _signal(process: psutil.Process, *, kill: bool) -> bool:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        return False
    return True
