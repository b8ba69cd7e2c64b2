"""`headrace up --supervise`: brings back what is away, again and again, until it is told to end. What lives it never touches.

Each repair is one run of `up_once` in a process of its own: a driver whose Ray dies under it takes its process along.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from types import FrameType

from cluster.error_wire import from_wire
from cluster.errors import BadInput, Conflict, HeadraceError
from headrace.local.down import end_at_once, take_down
from headrace.local.home import Home, Settings
from headrace.local.lock import Busy
from headrace.local.options import UpOptions
from headrace.local.ray.head import ray_logs
from headrace.local.ray.logs import prune
from headrace.local.repairs.look import look
from headrace.local.repairs.parts import Absences, Away, Backoff, RunPart, plan
from headrace.local.run_state import RunState, load_run

LOOK_EVERY_S = 1.0
ASK_CONTROLLER_EVERY = 5  # looks
PRUNE_EVERY = 60  # looks
ABOARD_AGAIN = Backoff(first_s=5.0, most_s=300.0)  # what of an image could not be taken
ASK_S = 5.0
# An `up` of somebody else has no run.json for a moment, while it begins.
TAKEN_DOWN_AFTER = 3  # looks
BUSY = 3  # the status of `up_once` where another command is at work

Say = Callable[[str], None]


def supervise(options: UpOptions, settings: Settings, say: Say, *, drain_timeout_s: float) -> bool:
    """Returns True once SIGTERM or SIGINT came and all is drained and ended, or `headrace down` has ended it; False where a
    second signal ended all at once.

    Raises Conflict where another one supervises this home, and what the first start raises where only its user can mend that;
    then nothing is left. To be called in the main thread.
    """
    with only_supervisor(settings.home):
        supervisor = Supervisor(options, settings, say)
        with told_by_signals(supervisor.stop):
            try:
                if supervisor.run():
                    say("told to end: drains")
                    done = take_down(settings, lambda *step: say(line_of(*step)), drain_timeout_s=drain_timeout_s)
                    say("ended" if done.drained else "ended, not all of it drained")
            except AtOnce:
                say("told again: ends at once")
                end_at_once(settings.home)
                return False
    return True


class AtOnce(BaseException):
    """Raised in the main thread by the second signal. No Exception: nothing on the way may take it for a failure of its own."""


class Supervisor:
    """Looks each second, and repairs what does not come back by itself."""

    def __init__(self, options: UpOptions, settings: Settings, say: Say, *, gives_up: bool = True) -> None:
        """`gives_up`: where only its user can mend why the first start failed, `run` raises that; else it tries again."""
        self._options = options
        self._gives_up = gives_up
        self._settings = settings
        self._say = say
        self._stop = threading.Event()
        self._repairing: subprocess.Popen[str] | None = None
        self._absences = Absences({})
        self._backoffs: dict[RunPart, Backoff] = {}
        self._left_out: tuple[str, ...] = ()
        self._aboard = ABOARD_AGAIN
        self._controller_away: tuple[Away, ...] = ()
        self._looks = self._without_run = 0
        self._is_up = False

    def stop(self) -> None:
        """From a signal handler: `run` returns soon. Raises AtOnce where it was called before."""
        if self._stop.is_set():
            raise AtOnce
        self._stop.set()
        if self._repairing is not None:
            self._repairing.kill()  # what it has begun stands in run.json

    def run(self) -> bool:
        """True where it was told to stop; False where somebody else has ended the run. Raises as `supervise` does."""
        failed = self._bring_up((RunPart.RAY,))
        if self._gives_up and isinstance(failed, BadInput | Conflict):
            raise failed
        while not self._stop.wait(LOOK_EVERY_S):
            state = load_run(self._settings.home)
            self._without_run = 0 if state is not None else self._without_run + 1
            if self._is_up and self._without_run >= TAKEN_DOWN_AFTER:
                self._say("`headrace down` has ended what ran: this ends too")
                return False
            if state is not None:
                self._look(state, time.monotonic())
            if state is not None and state.owns_ray and self._looks % PRUNE_EVERY == 0:
                self._prune()
            overdue = self._overdue() if state is not None else ()
            self._repair(overdue or (() if self._is_up else (RunPart.RAY,)))
            if self._left_out and self._is_up and time.monotonic() >= self._aboard.next_s:
                self._bring_up(())
        return True

    def _prune(self) -> None:
        try:
            prune(ray_logs(self._settings.home))
        except OSError as error:  # what serves is looked after all the same
            self._say(f"Ray's old logs can't be deleted: {error}")

    def _look(self, state: RunState, now_s: float) -> None:
        self._looks += 1
        asks = self._looks % ASK_CONTROLLER_EVERY == 0
        away = look(state, self._settings, ask_s=ASK_S, ask_controller=asks)
        if asks:
            self._controller_away = tuple(one for one in away if one.part is RunPart.CONTROLLER)
        else:
            away += self._controller_away
        before, self._absences = self._absences, self._absences.seen(away, now_s)
        for one in away:
            if one.part not in before.since_s:
                self._say(f"{one.part} is away: {one.why}")
        for part, since_s in before.since_s.items():
            if part not in self._absences.since_s:
                self._say(f"{part} is back after {now_s - since_s:.1f} s")
        self._backoffs = {
            part: backoff if part in self._absences.since_s else backoff.well(now_s) for part, backoff in self._backoffs.items()
        }

    def _overdue(self) -> Sequence[RunPart]:
        wanted = plan(tuple(Away(part, "") for part in self._absences.since_s))
        overdue = self._absences.overdue(time.monotonic())
        return [part for part in wanted if part in overdue]

    def _repair(self, overdue: Sequence[RunPart]) -> None:
        now_s = time.monotonic()
        due = [part for part in overdue if now_s >= self._backoff(part).next_s]
        if due:
            self._bring_up(due)

    def _backoff(self, part: RunPart) -> Backoff:
        return self._backoffs.get(part, Backoff())

    def _bring_up(self, parts: Sequence[RunPart]) -> HeadraceError | None:
        """One `up`, and why it failed."""
        failed = self._up_once()
        now_s = time.monotonic()
        self._backoffs |= {part: self._backoff(part).tried(now_s) for part in parts}
        if not isinstance(failed, Busy):
            self._is_up = failed is None
        if failed is None:
            self._note_aboard(now_s)
            # They are applied: what somebody applies later stays, and who takes the store over later has it.
            models = self._options.models if self._left_out else ""
            self._options = replace(self._options, access="", models=models, take_over=False)
        if failed is not None and not self._stop.is_set():
            wait_s = min((self._backoffs[part].next_s for part in parts), default=self._aboard.next_s) - now_s
            self._say(f"{failed}; tries again in {max(wait_s, 0.0):.0f} s")
        return failed

    def _note_aboard(self, now_s: float) -> None:
        """What of the image serves, serves; the rest is told, and tried again: a key may come, or the service that holds it."""
        state = load_run(self._settings.home)
        self._left_out = state.left_out if state is not None and self._options.models else ()
        self._aboard = self._aboard.tried(now_s)
        for one in self._left_out:
            self._say(f"left out: {one}; tries again in {self._aboard.next_s - now_s:.0f} s")

    def _up_once(self) -> HeadraceError | None:
        command = [sys.executable, "-m", "headrace.local.repairs.up_once", json.dumps(asdict(self._options))]
        environment = {**os.environ, "HEADRACE_HOME": str(self._settings.home.root)}
        if self._settings.ray_address is not None:
            environment["HEADRACE_RAY_ADDRESS"] = self._settings.ray_address
        failed: HeadraceError | None = None
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",  # what a library writes there may be no text
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process, which ends that one itself
        ) as process:
            self._repairing = process
            if self._stop.is_set():
                process.kill()
            for line in process.stdout or ():
                failed = _error_in(line) or failed
                if _error_in(line) is None:
                    self._say(line.rstrip())
        self._repairing = None
        if process.returncode != 0 and failed is None:
            return HeadraceError(f"`up` ended with status {process.returncode}", where=str(self._settings.home.driver_log))
        if failed is not None and process.returncode == BUSY:
            return Busy(failed.what, where=failed.where, remedy=failed.remedy)
        return failed


def line_of(step: str, detail: str, seconds: float) -> str:
    """One step of `up` or `down`, as it is logged. Pure."""
    return f"{step}: {detail} ({seconds:.1f} s)"


def _error_in(line: str) -> HeadraceError | None:
    if not line.startswith("{"):
        return None
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return from_wire(document.get("error"))


@contextlib.contextmanager
def only_supervisor(home: Home) -> Iterator[None]:
    """One at a time for a home. Raises Conflict."""
    home.make()
    with home.supervisor_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                "another `headrace up --supervise` looks after it", where=str(home.root), remedy="end that one with SIGTERM first"
            ) from error
        yield


@contextlib.contextmanager
def told_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `stop`, for as long as the block lasts. In the main thread."""

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (as Python calls it)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
