"""The processes of Ray's head node: which they are, and how one that ended is started again alone.

Ray has no command for the latter. Its raylet and GCS hold what can't be made again; the others are started as Ray has started
them: by the command line that was seen then, in the environment that the GCS has.
"""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import psutil

from cluster.errors import Unreachable
from headrace.local.home import Home
from headrace.local.ports import answers, split_address
from headrace.local.repairs.parts import RunPart
from headrace.local.run_state import GCS, RAYLET, RunState, StartedProcess, started

LOG_TAIL_BYTES = 2000
DASHBOARD_STARTS_WITHIN_S = 60.0
ENDS_AT_ONCE_S = 1.0
POLL_S = 0.1


def head_processes(processes: list[psutil.Process]) -> list[StartedProcess]:
    """Those of a run's processes that `ray start` itself has started. Raylet's workers and agents are the raylet's to keep."""
    found = []
    for process in processes:
        try:
            command = tuple(process.cmdline())
            role = role_of(command)
            if role is not None:
                kept = () if role in (RAYLET, GCS) else command
                found.append(StartedProcess(role=role, pid=process.pid, created_s=process.create_time(), command=kept))
        except psutil.NoSuchProcess:
            continue  # a worker may end at any time
    return found


def role_of(command: tuple[str, ...]) -> str | None:
    """What a process of Ray's head is, by its command line; None for all others. Pure."""
    program = Path(command[0]).name if command else ""
    if program in (RAYLET, GCS):
        return program
    for word, following in pairwise((*command[1:], "")):
        if word.endswith("ray/dashboard/dashboard.py"):
            return RunPart.DASHBOARD
        if (word, following) == ("-m", "ray.util.client.server"):
            return RunPart.CLIENT_SERVER
    return None


def start_again(home: Home, state: RunState, role: RunPart) -> StartedProcess:
    """Starts one of `parts.HELPERS` of a living Ray, and returns when it works.

    Raises Unreachable where it ends at once, or nothing is known of it.
    """
    ended, gcs = state.process(role), state.process(GCS)
    living = gcs.find() if gcs is not None else None
    if ended is None or not ended.command or living is None:
        raise Unreachable(
            f"nothing says how its {role} was started", where=str(home.run_file), remedy="`headrace down`, then `up`"
        )
    log = home.logs / f"{role.replace(' ', '-')}.log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            ended.command,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
            cwd=home.root,
            env=living.environ(),
            start_new_session=True,
        )
    address = state.addresses.dashboard if role == RunPart.DASHBOARD else None
    _await(process, role, log, split_address(address.removeprefix("http://")) if address else None)
    return started(role, process.pid).model_copy(update={"command": ended.command})


def _await(process: subprocess.Popen[bytes], role: str, log: Path, address: tuple[str, int] | None) -> None:
    for _ in range(round((DASHBOARD_STARTS_WITHIN_S if address else ENDS_AT_ONCE_S) / POLL_S)):
        if address and answers(*address):
            return
        try:
            status = process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue
        tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        raise Unreachable(f"Ray's {role} ended with status {status}: {tail}", where=str(log), remedy="read the log")
    if address:
        raise Unreachable(f"Ray's {role} does not answer in time", where="{}:{}".format(*address), remedy=f"read {log}")
