"""The cluster's jobs as the brain knows them: how one is seen, and what it asks for. Values alone; `ports.Jobs` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

TRY_AGAIN = 75  # the exit status of a job that lacked what may be there at the next try (EX_TEMPFAIL of sysexits)


class JobState(StrEnum):
    """A job as the cluster shows it."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A job as the cluster shows it; `message` is why it failed, `transient` that another try may find what this one lacked."""

    state: JobState
    message: str = ""
    transient: bool = False


@dataclass(frozen=True, slots=True)
class SubmitJob:
    """Start a fire's job. Idempotent: the cluster refuses an id that exists.

    `fire` is the same for all tries of one fire, so a later try goes on where an earlier one ended; `as_of` is the fire's date
    in the schedule's time zone. One that a person asked for (`by_hand`) goes on with that run alone (`resumes`), or gives up none
    but that `unfinished` one.
    """

    job: str
    batch: str
    fire: str
    as_of: str
    by_hand: bool = False
    unfinished: str = ""
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class SubmitPreflight:
    """Start the job that puts recorded requests to a rollout's candidate and tells what came of it. Idempotent as SubmitJob.

    `asked` is the plan's `preflight` as JSON.
    """

    job: str
    model: str
    version: int
    rollout: int
    asked: str


@dataclass(frozen=True, slots=True)
class RunCommand:
    """Start what a model's document wants run at an alarm of drift: these words, which no shell expands. Idempotent, as above."""

    job: str
    model: str
    version: int
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopJob:
    """End a job that takes too long. Idempotent."""

    job: str
