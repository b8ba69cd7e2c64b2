"""What a candidate takes to start may be away: the store of its files, a key's service, a right, room. Pure.

That says nothing about the version, so its rollout waits: it stays at its step, goes on by itself once the candidate is ready,
and the time counts neither as bake time nor towards the step's deadline. A wait that is longer than that deadline is held for a
person or taken back, as the plan says of any other. Which failures these are says rollout/blame.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cluster.fleet.retry import Retry, backoff_s
from cluster.ports import AppState, AppStatus
from cluster.schedule.jobs import JobSeen, JobState


@dataclass(frozen=True, slots=True)
class Wait:
    """Since when the candidate lacks something, and what, by its own words: where that is and what to do. Times are Unix seconds.

    `quiet_s` is since when nobody says so any more: a try is under way.
    """

    since_s: float
    why: str
    quiet_s: float | None = None

    @property
    def words(self) -> str:
        """For people."""
        since = f"{datetime.fromtimestamp(self.since_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
        lacks = "what its candidate takes to start"
        return f"since {since} it waits for {lacks}, and goes on by itself once that is there: {self.why}"


def lacking(app: AppState | None, preflight: Retry | None) -> str | None:
    """What the candidate lacks, or its preflight, where one is to be tried again; "" where a try is under way, and None where
    nothing is lacking: it is ready, or what is wrong with it is its own."""
    if app is not None and app.status is AppStatus.READY:
        if preflight is None:
            return None
        return preflight.reason if preflight.next_s is not None else ""
    if app is not None and app.transient:
        return app.message or "no reason given"
    return None if app is not None and app.status in (AppStatus.FAILED, AppStatus.UNHEALTHY) else ""


def after_look(wait: Wait | None, lacks: str | None, now_s: float, *, patience_s: float) -> Wait | None:
    """The wait after a look that found this `lacking`; None where there is none. A try that takes longer than `patience_s`
    is in want of something else, such as a node: it is judged by the deadline again."""
    if lacks:
        return Wait(now_s, lacks) if wait is None else replace(wait, why=lacks, quiet_s=None)
    if wait is None or lacks is None:
        return None
    if wait.quiet_s is None:
        return replace(wait, quiet_s=now_s)
    return wait if now_s - wait.quiet_s < patience_s else None


def after_job(known: Retry | None, job: JobSeen | None, now_s: float) -> Retry | None:
    """When the preflight is tried again, after a look at the job of its last try. None where it has not failed so."""
    if known is not None and known.next_s is not None:
        return known if now_s < known.next_s else replace(known, next_s=None)
    if job is None or job.state is not JobState.FAILED or not job.transient:
        return known
    failures = 1 if known is None else known.failures + 1
    return Retry(failures, f"its preflight could not be made: {job.message}", now_s + backoff_s(failures))
