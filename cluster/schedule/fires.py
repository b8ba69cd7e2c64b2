"""What becomes of a batch's runs. Pure: the clock, the past fires and the jobs seen are given; new fires and actions come out.

A fire is one moment at which the cron line says "run". It is run at most once whatever dies: its job's id is made from its
time, and the cluster refuses an id that it has seen.

    WAITING -> SUBMITTED -> RUNNING -> SUCCEEDED
       |           ^            |
       |           +- WAITING <-+-> FAILED     (attempts are left: again, after a pause)
       +-> SKIPPED                             (missed, or the one before it still runs)

A person may ask for a run too: a fire like any other, which is tried once. He may cancel whichever is open: CANCELLED.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from zoneinfo import ZoneInfo

from cluster.schedule.cron import Missed, Overlap, Schedule, fires_between

KEPT = 50  # past fires of a batch without a schedule
_NOT_YET = "not submitted yet, tried again: "
_STOPPING_S = 600.0  # a job that was given up is watched for this long, and ended again should it still run
TRY_AGAIN = 75  # the exit status of a job that lacked what may be there at the next try (EX_TEMPFAIL of sysexits)


class FireState(StrEnum):
    """Where a fire stands."""

    WAITING = "waiting"
    SUBMITTED = "submitted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


_ACTIVE = (FireState.SUBMITTED, FireState.RUNNING)
OPEN = (*_ACTIVE, FireState.WAITING)


@dataclass(frozen=True, slots=True)
class Fire:
    """One moment of the schedule. `attempt` counts from 0; `not_before_s` holds a retry back; `reason` is for people.

    `by` is the person who asked for it; empty where the schedule did. His run stands for the date `as_of`, where he said one. Of
    `unfinished`, a run that he saw left unfinished, it is the rest where it `resumes`; else it gives that one up.
    """

    at_s: float
    state: FireState
    attempt: int = 0
    not_before_s: float = 0.0
    submitted_s: float = 0.0
    ended_s: float | None = None
    reason: str = ""
    by: str = ""
    as_of: str = ""
    unfinished: str = ""
    resumes: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it is not over yet."""
        return self.state in OPEN


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


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a schedule comes to: the fires to save, then the actions, safe to repeat."""

    fires: tuple[Fire, ...]
    actions: tuple[SubmitJob | StopJob, ...]


def job_id(name: str, at_s: float, attempt: int = 0, *, by_hand: bool = False) -> str:
    """The id of a fire's job: the same for the same fire, whoever submits it, e.g. `sched-digits-20261123T023000Z`; `hand-` where
    a person asked for it."""
    text = f"{'hand' if by_hand else 'sched'}-{name}-{datetime.fromtimestamp(at_s, UTC):%Y%m%dT%H%M%SZ}"
    return f"{text}-r{attempt}" if attempt else text


def job_of(name: str, fire: Fire, attempt: int | None = None) -> str:
    """The id of a try's job, the last one's where none is said."""
    return job_id(name, fire.at_s, fire.attempt if attempt is None else attempt, by_hand=bool(fire.by))


def asked_fire(fires: Sequence[Fire], by: str, now_s: float, *, as_of: str, unfinished: str, resumes: bool) -> Fire:
    """What a person asks for, as a fire of a second that no other has: jobs are named by it."""
    at_s = max([float(int(now_s)), *(fire.at_s + 1 for fire in fires if fire.by)])
    return Fire(at_s, FireState.WAITING, by=by, as_of=as_of, unfinished=unfinished, resumes=resumes)


def cancelled(fire: Fire, by: str, now_s: float) -> Fire:
    """The fire given up by a person; the next look ends its job. One that is over stays as it is."""
    if not fire.is_open:
        return fire
    return replace(fire, state=FireState.CANCELLED, ended_s=now_s, reason=f"cancelled by {by}")


def jobs_of(name: str, fires: Sequence[Fire], now_s: float) -> set[str]:
    """The jobs to ask the cluster for before a look: those that may run."""
    recent = [f for f in fires if f.is_open or (f.ended_s is not None and now_s - f.ended_s < _STOPPING_S)]
    return {job_of(name, fire, attempt) for fire in recent for attempt in (fire.attempt - 1, fire.attempt) if attempt >= 0}


def look(
    name: str,
    schedule: Schedule | None,
    fires: Sequence[Fire],
    seen: Mapping[str, JobSeen] | None,
    *,
    since_s: float,
    now_s: float,
    refused: Mapping[str, str] = MappingProxyType({}),
) -> Look:
    """One look at the schedule of the batch `name`; None: it runs when a person asks for it, and what began is followed.

    `fires` is what the last look returned, `seen` the cluster's jobs by id, `since_s` when the schedule was applied: nothing
    fires before it. An id that is not in `seen` was never submitted, or its submission was lost: it is submitted again. So is one
    that ran and that Ray has forgotten with its head node; what a person asked for has failed then. Where
    the cluster can't be asked (None) new fires are noted, and nothing is done. `refused` has, by job, why it could not be
    submitted at the last try.
    """
    keep = schedule.keep if schedule is not None else KEPT
    fires = [_waits_for(name, fire, refused) for fire in fires]
    if seen is None:
        return Look(_trimmed([*fires, *_new_fires(schedule, fires, since_s=since_s, now_s=now_s)], keep), ())
    known = [_follow(name, schedule, fire, seen, now_s) for fire in fires]
    stale = tuple(StopJob(job) for fire in known for job in _stale_jobs(name, fire, seen))
    known += _new_fires(schedule, known, since_s=since_s, now_s=now_s)
    if not stale:  # the next try waits for the end of the one that it replaces
        known = _start_next(known, now_s)
    submits = tuple(
        _submission(name, schedule, fire)
        for fire in known
        if fire.state is FireState.SUBMITTED and job_of(name, fire) not in seen
    )
    return Look(_trimmed(known, keep), (*stale, *submits))


def _submission(name: str, schedule: Schedule | None, fire: Fire) -> SubmitJob:
    zone = ZoneInfo(schedule.timezone if schedule is not None else "UTC")
    as_of = fire.as_of or datetime.fromtimestamp(fire.at_s, zone).date().isoformat()
    return SubmitJob(job_of(name, fire), name, job_of(name, fire, 0), as_of, bool(fire.by), fire.unfinished, fire.resumes)


def _stale_jobs(name: str, fire: Fire, seen: Mapping[str, JobSeen]) -> Iterator[str]:
    """Jobs that run though their try was given up."""
    for attempt in (fire.attempt - 1, fire.attempt):
        job = job_of(name, fire, max(attempt, 0))
        wanted = attempt == fire.attempt and fire.state in _ACTIVE
        if attempt >= 0 and not wanted and job in seen and seen[job].state is JobState.RUNNING:
            yield job


def _follow(name: str, schedule: Schedule | None, fire: Fire, seen: Mapping[str, JobSeen], now_s: float) -> Fire:
    if fire.state not in _ACTIVE:
        return fire
    schedule = schedule if not fire.by else None
    job = seen.get(job_of(name, fire))
    if job is not None and job.state is JobState.SUCCEEDED:
        return replace(fire, state=FireState.SUCCEEDED, ended_s=now_s, reason="")
    if job is not None and job.state is JobState.FAILED:
        return _failed(schedule, fire, now_s, job.message or "the job failed")
    if schedule is not None and schedule.timeout_s is not None and now_s - fire.submitted_s > schedule.timeout_s:
        return _failed(schedule, fire, now_s, f"it took longer than {schedule.timeout_s:g} s")
    if job is None:
        return fire if fire.state is FireState.SUBMITTED else _forgotten(fire, now_s)
    return replace(fire, state=FireState.RUNNING, reason="" if fire.reason.startswith(_NOT_YET) else fire.reason)


def _forgotten(fire: Fire, now_s: float) -> Fire:
    """One that ran, and whose job no Ray knows any more: that of the schedule goes on, by the ledger, where it stopped."""
    why = "its job is gone with the Ray that ran it"
    if fire.by:
        return replace(fire, state=FireState.FAILED, ended_s=now_s, reason=why)
    return replace(fire, state=FireState.SUBMITTED, submitted_s=now_s, reason=f"{why}: submitted again")


def _waits_for(name: str, fire: Fire, refused: Mapping[str, str]) -> Fire:
    """With why its job is not submitted yet."""
    why = refused.get(job_of(name, fire)) if fire.state is FireState.SUBMITTED else None
    return fire if why is None else replace(fire, reason=_NOT_YET + why)


def _failed(schedule: Schedule | None, fire: Fire, now_s: float, reason: str) -> Fire:
    if schedule is None or fire.attempt >= schedule.retries:
        return replace(fire, state=FireState.FAILED, ended_s=now_s, reason=reason)
    pause_s = schedule.backoff_s * 2**fire.attempt
    return replace(fire, state=FireState.WAITING, attempt=fire.attempt + 1, not_before_s=now_s + pause_s, reason=reason)


def _new_fires(schedule: Schedule | None, known: Sequence[Fire], *, since_s: float, now_s: float) -> list[Fire]:
    if schedule is None:
        return []
    after_s = max([since_s, *(fire.at_s for fire in known if not fire.by)])
    times = fires_between(schedule, after_s, now_s)
    missed = [at_s for at_s in times if at_s < now_s - schedule.grace_s]
    run = set(times) - set(missed)
    if schedule.missed is Missed.RUN_ALL:
        run |= set(missed)
    elif schedule.missed is Missed.RUN_LATEST and not run:
        run |= set(missed[-1:])
    # Whatever is still open when a fire comes overlaps it. `run_all` asks for every missed one, so those queue up.
    busy = any(fire.is_open for fire in known)
    made = []
    for at_s in times:
        if at_s not in run:
            made.append(Fire(at_s, FireState.SKIPPED, reason="missed while nobody looked"))
        elif busy and schedule.overlap is Overlap.SKIP and not (at_s in missed and schedule.missed is Missed.RUN_ALL):
            made.append(Fire(at_s, FireState.SKIPPED, reason="the run before it was not over"))
        else:
            made.append(Fire(at_s, FireState.WAITING))
            busy = True
    return made


def _start_next(known: list[Fire], now_s: float) -> list[Fire]:
    """One at a time, oldest first: runs of one batch write one output."""
    if any(fire.state in _ACTIVE for fire in known):
        return known
    for place, fire in enumerate(known):
        if fire.state is FireState.WAITING:
            if fire.not_before_s > now_s:
                return known
            started = replace(fire, state=FireState.SUBMITTED, submitted_s=now_s)
            return [*known[:place], started, *known[place + 1 :]]
    return known


def _trimmed(known: Sequence[Fire], keep: int) -> tuple[Fire, ...]:
    """The newest `keep` of the schedule's, which say where it goes on, as many of persons', and every older one that is not
    over."""
    recent = {fire for by_hand in (False, True) for fire in [each for each in known if bool(each.by) is by_hand][-keep:]}
    return tuple(fire for fire in known if fire.is_open or fire in recent)
