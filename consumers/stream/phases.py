"""The phases of a stream's worker, which may follow which, and what moves it from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from consumers.stream.stuck import Stuck


class WorkerPhase(StrEnum):
    """How the worker is doing."""

    STARTING = "starting"  # opening the log, joining the group
    RUNNING = "running"
    CUT_OFF = "cut_off"  # the broker does not answer: nothing comes, nothing is lost
    HOLDING = "holding"  # transient trouble or an open breaker: the same micro-batch is tried again
    RECOVERING = "recovering"  # the log failed: back to the committed offsets, until a poll succeeds
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


ENDS = frozenset({WorkerPhase.STOPPED, WorkerPhase.FAILED})
FOLLOWING: Mapping[WorkerPhase, frozenset[WorkerPhase]] = {
    WorkerPhase.STARTING: frozenset({WorkerPhase.RUNNING, WorkerPhase.HOLDING, WorkerPhase.RECOVERING, WorkerPhase.DRAINING})
    | ENDS,
    WorkerPhase.RUNNING: frozenset({WorkerPhase.CUT_OFF, WorkerPhase.HOLDING, WorkerPhase.RECOVERING, WorkerPhase.DRAINING})
    | ENDS,
    WorkerPhase.CUT_OFF: frozenset({WorkerPhase.RUNNING, WorkerPhase.HOLDING, WorkerPhase.RECOVERING, WorkerPhase.DRAINING})
    | ENDS,
    WorkerPhase.HOLDING: frozenset({WorkerPhase.RUNNING, WorkerPhase.RECOVERING, WorkerPhase.DRAINING}) | ENDS,
    WorkerPhase.RECOVERING: frozenset({WorkerPhase.RUNNING, WorkerPhase.CUT_OFF, WorkerPhase.HOLDING, WorkerPhase.DRAINING})
    | ENDS,
    WorkerPhase.DRAINING: ENDS,
    WorkerPhase.STOPPED: frozenset(),
    WorkerPhase.FAILED: frozenset(),
}


class IllegalPhase(RuntimeError):
    """A phase was to follow one that it can't follow: a fault of ours."""


class WorkerPhases:
    """The phase that one worker is in, and why, in words. Its thread writes; any thread may read."""

    def __init__(self) -> None:
        self._now = WorkerPhase.STARTING, ""
        self.stuck = Stuck()

    @property
    def phase(self) -> WorkerPhase:
        """The phase now."""
        return self._now[0]

    @property
    def message(self) -> str:
        """What the worker waits for, or what went wrong; empty where all is well."""
        return self._now[1]

    def enter(self, phase: WorkerPhase, message: str) -> None:
        """Moves on, or stays and says something else. Raises IllegalPhase where this one can't follow."""
        if phase is not self.phase and phase not in FOLLOWING[self.phase]:
            raise IllegalPhase(f"{phase} can't follow {self.phase}")
        self._now = phase, message

    def say(self, message: str) -> None:
        """Another message, in the same phase."""
        self.enter(self.phase, message)

    def drain(self) -> None:
        """The worker was told to stop, and takes no more."""
        self.enter(WorkerPhase.DRAINING, self.message)

    def hold(self, why: str) -> None:
        """A micro-batch is tried again."""
        self.enter(WorkerPhase.DRAINING if self.phase is WorkerPhase.DRAINING else WorkerPhase.HOLDING, why)

    def held_no_more(self) -> None:
        """What was tried again has succeeded."""
        if self.phase is WorkerPhase.HOLDING:
            self._calm()

    def look(self, trouble: str) -> None:
        """What the log says of itself, before each poll: a client polls in vain where its broker is away, and says nothing."""
        if trouble and self.phase is WorkerPhase.STARTING:
            self.say(trouble)
        elif trouble and self.phase in (WorkerPhase.RUNNING, WorkerPhase.CUT_OFF):
            self.enter(WorkerPhase.CUT_OFF, trouble)
        elif not trouble and self.phase in (WorkerPhase.STARTING, WorkerPhase.CUT_OFF):
            self._calm()

    def recovered(self) -> None:
        """The log is back at its committed offsets. It runs once a poll has succeeded: where each is refused, it never does."""
        if self.stuck.at and self.stuck.message:
            self._calm()
        else:
            self.say(self.stuck.message or self.message)

    def polled(self, trouble: str) -> None:
        """A poll has succeeded; `trouble` as in `look`."""
        if self.phase is WorkerPhase.RECOVERING and trouble:
            self.enter(WorkerPhase.CUT_OFF, trouble)
        elif self.phase is WorkerPhase.RECOVERING:
            self._calm()

    def unstick(self, stuck: Stuck) -> None:
        """How often the worker has gone back to the same records, as known by now."""
        before, self.stuck = self.stuck, stuck
        if before.message and not stuck.message:
            self.held_no_more()

    def _calm(self) -> None:
        """Whatever it was is over; a worker that is stuck is held still."""
        self.enter(WorkerPhase.HOLDING if self.stuck.message else WorkerPhase.RUNNING, self.stuck.message)
