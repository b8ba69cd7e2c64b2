"""run.json: what `headrace up` started and where it listens. Written before and after each step, so that a kill loses nothing."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import Conflict
from headrace.local.home import Home
from headrace.local.lock import only_one
from headrace.local.options import UpOptions

# The roles of processes, beside those of `parts.HELPERS`. RAY started Ray and has ended since, but what it started is of its
# session; up to version 0.1 it stayed, and Ray ended with it.
RAY = "ray"
RAYLET = "raylet"
GCS = "gcs_server"
BROKER = "broker"


class Phase(StrEnum):
    """How far `up` came."""

    STARTING = "starting"
    RUNNING = "running"


class StartedProcess(BaseModel):
    """One process that we started. `created_s` tells it from a later process with the same pid; `command` starts one of Ray's own
    again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    pid: int
    created_s: float
    command: tuple[str, ...] = ()

    def find(self) -> psutil.Process | None:
        """The process where it still runs, else None; a zombie counts as ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created_s) < 1.0
            alive = same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None

    def is_replaced(self) -> bool:
        """Whether its pid is another process's by now. A zombie that nobody has reaped yet is still itself."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.created_s) >= 1.0
        except psutil.NoSuchProcess:
            return False


def started(role: str, pid: int) -> StartedProcess:
    """Notes a process that was started just now. Raises psutil.NoSuchProcess where it has ended."""
    return StartedProcess(role=role, pid=pid, created_s=psutil.Process(pid).create_time())


class Addresses(BaseModel):
    """Where things listen: `ray`, `grpc` and `broker` are host:port, the others URLs. None where there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    http: str | None = None
    grpc: str | None = None
    dashboard: str | None = None
    ray: str | None = None
    broker: str | None = None
    prometheus: str | None = None
    alertmanager: str | None = None


class RunState(BaseModel):
    """The whole of run.json. `owns_ray` is False where we joined a running cluster: then nothing of it is ended. `options` are of
    `up`; None up to version 0.1. `left_out` says what of an image's versions could not be taken, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    phase: Phase
    started_s: float
    owns_ray: bool
    processes: tuple[StartedProcess, ...] = ()
    addresses: Addresses = Addresses()
    options: UpOptions | None = None
    left_out: tuple[str, ...] = ()

    def process(self, role: str) -> StartedProcess | None:
        """The process of that role, or None."""
        return next((one for one in self.processes if one.role == role), None)

    def with_process(self, process: StartedProcess) -> RunState:
        """This, with that process in its role."""
        others = (one for one in self.processes if one.role != process.role)
        return self.model_copy(update={"processes": (*others, process)})

    def holds_its_ports(self) -> bool:
        """Whether the door can be the one that we started, which ends with the raylet. Else whoever has its port now may be
        anybody. True for a Ray of somebody else."""
        parts = [one for one in self.processes if one.role == RAYLET] or [one for one in self.processes if one.role == RAY]
        return not self.owns_ray or any(one.find() is not None for one in parts)

    def ray_lives(self) -> bool:
        """Whether the Ray that we started can work: without its raylet or its GCS it can't. True for a Ray of somebody else."""
        if not self.owns_ray:
            return True
        parts = [one for one in self.processes if one.role in (RAYLET, GCS)] or [one for one in self.processes if one.role == RAY]
        return bool(parts) and all(one.find() is not None for one in parts)


def load_run(home: Home) -> RunState | None:
    """Reads run.json; None where there is none. Raises Conflict where it can't be understood."""
    try:
        text = home.run_file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return RunState.model_validate_json(text)
    except ValidationError as error:
        raise Conflict(
            "this is not a run.json that this version of headrace has written",
            where=str(home.run_file),
            remedy="end what it names by hand, then delete the file",
        ) from error


def notes_a_joined_ray(home: Home) -> bool:
    """Whether run.json, which another version of Headrace may have written, says that nothing in it is ours to end."""
    try:
        told = json.loads(home.run_file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("owns_ray") is False


def save_run(home: Home, state: RunState) -> None:
    """Replaces run.json in one step: a reader sees the old one or the new one."""
    replace_file(home.run_file, state.model_dump_json(indent=2).encode() + b"\n")


def note_left_out(home: Home, left_out: tuple[str, ...]) -> None:
    """Writes down what of an image's versions could not be taken; nothing happens where nothing runs, or it stands there. Raises
    Busy where another command is at work: what that one writes, or a `down` has deleted, is not to be undone."""
    with only_one(home):
        state = load_run(home)
        if state is not None and state.left_out != left_out:
            save_run(home, state.model_copy(update={"left_out": left_out}))


def clear_run(home: Home) -> None:
    """Removes run.json; nothing happens where there is none."""
    home.run_file.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """In one step, also where it is killed."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
