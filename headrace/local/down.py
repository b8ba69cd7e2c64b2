"""`headrace down`: drains what runs, ends what `up` started, by pid, and looks that nothing is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Protocol

import psutil

from cluster.errors import HeadraceError
from deployments.gateway.door.found import remove_doors
from headrace.local.broker import stop_broker
from headrace.local.home import Home, Settings
from headrace.local.lock import only_one
from headrace.local.ports import answers, split_address
from headrace.local.processes import end, of_run
from headrace.local.run_state import BROKER, RAY, RAYLET, Phase, RunState, clear_run, load_run

RAY_STOP_S = 15.0
DEAD_RAY_STOP_S = 1.0  # a raylet would wait for its GCS
ENDINGS = 5


class Progress(Protocol):
    """Told of each step as it ends."""

    def __call__(self, step: str, detail: str, seconds: float) -> None:
        """`detail` is what came of it; `seconds` how long it took."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What `down` did. `drained` is False where there was nothing to drain, or it took too long."""

    was_running: bool
    drained: bool


def take_down(settings: Settings, progress: Progress, *, drain_timeout_s: float) -> Ended:
    """Ends everything of the home; safe to repeat, and after any kill. Raises HeadraceError where a process can't be ended."""
    home = settings.home
    with only_one(home):
        state = load_run(home)
        if state is None:
            stray = stop_broker(home.broker)
            return Ended(was_running=stray, drained=False)
        drained = False
        if state.phase is Phase.RUNNING and _ray_answers(state):
            begun = time.monotonic()
            drained = _drain(settings, drain_timeout_s)
            progress("drain", "streams and gateway" if drained else "took too long or failed", time.monotonic() - begun)
        end_run(home, state, progress)
        return Ended(was_running=True, drained=drained)


def end_run(home: Home, state: RunState, progress: Progress, *, keep_broker: bool = False) -> None:
    """Ends the run's processes without draining, and forgets it. Safe to repeat. Raises HeadraceError where one lives on."""
    begun = time.monotonic()
    others = _without_broker(state, home)
    # The raylet ends its workers in the right order, as up to version 0.1 the supervisor did all of Ray; the rest had lost them.
    first = {one.pid for one in state.processes if one.role in (RAY, RAYLET)}
    grace_s = RAY_STOP_S if state.ray_lives() else DEAD_RAY_STOP_S
    end([process for process in others if process.pid in first], timeout_s=grace_s)
    for _ in range(ENDINGS):  # one that is ending may start another
        rest = _without_broker(state, home)
        if not rest:
            break
        end(rest, timeout_s=3.0)
    if others:
        progress(RAY, "ended", time.monotonic() - begun)
    begun = time.monotonic()
    if not keep_broker and stop_broker(home.broker):
        progress(BROKER, "ended", time.monotonic() - begun)
    left = sorted(process.pid for process in (_without_broker(state, home) if keep_broker else of_run(state, home.root)))
    if left:
        raise HeadraceError(f"processes {left} can't be ended", where=str(home.run_file), remedy="look at them with ps")
    remove_doors(state.run_id)
    clear_run(home)


def end_at_once(home: Home) -> None:
    """Kills everything of the home, whatever it is at. Safe to repeat. Raises HeadraceError where one lives on."""
    state = load_run(home)
    if state is None:
        return
    for _ in range(ENDINGS):
        for process in of_run(state, home.root):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    end_run(home, state, lambda *_: None)


def _without_broker(state: RunState, home: Home) -> list[psutil.Process]:
    broker = state.process(BROKER)
    return [process for process in of_run(state, home.root) if broker is None or process.pid != broker.pid]


def _ray_answers(state: RunState) -> bool:
    address = state.addresses.ray
    return address is not None and (":" not in address or answers(*split_address(address)))


def _drain(settings: Settings, timeout_s: float) -> bool:
    """In a process of its own: a driver whose cluster dies under it takes its process along."""
    with (settings.home.logs / "drain.log").open("wb") as log:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "headrace.local.drain"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HEADRACE_HOME": str(settings.home.root)},
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0
