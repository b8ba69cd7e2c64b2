"""What an operator looks at first of each model, stream and batch: small enough to be told each second. Values alone."""

from __future__ import annotations

from enum import StrEnum

from cluster.commands.command import Message
from cluster.commands.feeds import FireView
from cluster.commands.rollouts import RolloutView


class Severity(StrEnum):
    """How much something asks for a person."""

    BROKEN = "broken"
    """It does not work, or works badly."""
    WAITING = "waiting"
    """It goes on once a person decides."""
    NOTE = "note"
    """It was dealt with; somebody may want to know."""


class WrongView(Message):
    """One thing that is not as it should be: in words, and what to do about it. No time stands in its words: `since_s` and
    `until_s` (Unix) tell since when it is so, and when something is done about it, where that is known."""

    severity: Severity
    words: str
    remedy: str
    since_s: float | None = None
    until_s: float | None = None


class AppGlance(Message):
    """One version's replicas: what it is to its model (stable, candidate, warm, idle), and what is seen of them. One that failed
    to start is tried again at `next_try_s` (Unix)."""

    version: int
    role: str
    status: str
    replicas: int
    target_replicas: int
    message: str = ""
    next_try_s: float | None = None


class StepGlance(Message):
    """One step of a plan: percent of traffic, percent in shadow, and how long it lasts at least."""

    weight: float
    shadow: float
    bake_s: float


class RolloutGlance(Message):
    """A rollout, and while it is under way what comes next: the step lasts until `bake_ends_s` at least, and at `deadline_s`
    (both Unix, None while paused and before the first step) it is held or taken back. `waits_for` says what for, in words."""

    rollout: RolloutView
    steps: tuple[StepGlance, ...]
    held: bool = False
    waits_for: str = ""
    bake_ends_s: float | None = None
    deadline_s: float | None = None
    on_deadline: str = "hold"


class WorseGlance(Message):
    """A version whose answers are proven to be worse than at build, by labels that came late: since when, in words how much."""

    version: int
    words: str
    since_s: float


class ModelGlance(Message):
    """One model. `figures` are the last ten seconds: requests_s, failed_requests_s, rows_s, row_errors_s, p99_s. `newest` is the
    number of its newest version, of `versions`; `alarmed` how many alarms of drift stand, `worse` those of quality."""

    name: str
    project: str
    stable: int | None
    newest: int
    versions: int
    apps: tuple[AppGlance, ...]
    rollout: RolloutGlance | None
    figures: dict[str, float]
    removing: str = ""
    by_hand: bool = False
    alarmed: int = 0
    worse: tuple[WorseGlance, ...] = ()
    wrong: tuple[WrongView, ...] = ()


class FeedGlance(Message):
    """One stream or batch. `figures` of a stream: records_s, lag_records, oldest_s; of a batch: rows and quarantined since the
    controller began. `last` is its last run in the cluster, by its schedule or by hand, `next_s` when its schedule fires next."""

    kind: str
    name: str
    model: str
    project: str
    wanted: str
    status: str
    replicas: int
    message: str
    figures: dict[str, float]
    removing: str = ""
    next_try_s: float | None = None
    cron: str = ""
    timezone: str = ""
    next_s: float | None = None
    last: FireView | None = None
    wrong: tuple[WrongView, ...] = ()


class Glance(Message):
    """All that the caller may view. `tick_s`: when the controller last looked; `table`: the number of the route table."""

    table: int
    tick_s: float
    models: tuple[ModelGlance, ...]
    feeds: tuple[FeedGlance, ...]
