"""The parts of a run: which are away, and what to do about it. Pure: no process is looked at here, and none is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class RunPart(StrEnum):
    """What `headrace up` starts, in the order in which one needs the other. RAY are its raylet and GCS, which end together."""

    BROKER = "broker"
    RAY = "Ray"
    DASHBOARD = "dashboard"
    CLIENT_SERVER = "client server"
    CONTROLLER = "controller"
    GATEWAY = "gateway"


# Ray has these on its head node beside raylet and GCS. Each can be started again alone; no call to a model needs them.
HELPERS = (RunPart.DASHBOARD, RunPart.CLIENT_SERVER)
# Ray starts the controller's process again, and Serve the gateway's, within seconds: only then is more wrong.
COMES_BACK_WITHIN_S: Mapping[RunPart, float] = {RunPart.CONTROLLER: 15.0, RunPart.GATEWAY: 20.0}


@dataclass(frozen=True, slots=True)
class Away:
    """A part that does not do its work. `why` says what was seen of it."""

    part: RunPart
    why: str


def plan(seen: tuple[Away, ...]) -> tuple[RunPart, ...]:
    """What is to be brought back, in order; nothing that lives is on it. Where Ray itself has ended, so has all that ran in it,
    and RAY stands for that. Pure."""
    away = {one.part for one in seen}
    if RunPart.RAY in away:
        return (RunPart.RAY,)
    if RunPart.GATEWAY in away:
        away.add(RunPart.CONTROLLER)  # which nobody could ask; where it lives, it is left as it is
    return tuple(part for part in RunPart if part in away)


@dataclass(frozen=True, slots=True)
class Absences:
    """Since when each part is away, by the watcher's clock in seconds."""

    since_s: Mapping[RunPart, float]

    def seen(self, away: tuple[Away, ...], now_s: float) -> Absences:
        """After another look. Pure."""
        return Absences({one.part: self.since_s.get(one.part, now_s) for one in away})

    def overdue(self, now_s: float) -> tuple[RunPart, ...]:
        """Those that do not come back by themselves. Pure."""
        return tuple(part for part, since_s in self.since_s.items() if now_s - since_s >= COMES_BACK_WITHIN_S.get(part, 0.0))


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next attempt: twice as long after each that did not last. Times by the watcher's clock."""

    first_s: float = 1.0
    most_s: float = 60.0
    attempts: int = 0
    next_s: float = 0.0

    def tried(self, now_s: float) -> Backoff:
        """After another attempt, whatever came of it: what comes up and ends at once is not started without a pause. Pure."""
        wait_s = min(self.first_s * 2**self.attempts, self.most_s)
        return Backoff(self.first_s, self.most_s, min(self.attempts + 1, 16), now_s + wait_s)

    def well(self, now_s: float) -> Backoff:
        """After a look that found everything: what has lasted for as long as the longest wait begins anew. Pure."""
        return Backoff(self.first_s, self.most_s) if now_s >= self.next_s + self.most_s else self
