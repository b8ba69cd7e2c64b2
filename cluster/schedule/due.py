"""Batches that are due: what their schedules come to at one tick. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.ports import FeedKind
from cluster.schedule.cron import Schedule
from cluster.schedule.fires import Fire, job_of, jobs_of, look
from cluster.schedule.jobs import JobSeen, StopJob, SubmitJob
from cluster.state import CONTROLLER, AuditEvent, Feed, State, Wanted

SCHEDULE = "schedule"


def jobs_to_ask(state: State, now_s: float) -> set[str]:
    """The jobs whose state the next decision needs; none as long as nothing is under way."""
    batches = {job for feed in state.feeds.values() if feed.fires for job in jobs_of(feed.spec.name, feed.fires, now_s)}
    active = (state.active(name) for name in state.models)
    return batches | {rollout.preflight_job for rollout in active if rollout is not None and rollout.awaits_preflight}


def fire_batch(
    state: State,
    key: str,
    jobs: Mapping[str, JobSeen] | None,
    refused: Mapping[str, str],
    now_s: float,
    events: list[AuditEvent],
) -> tuple[State, list[SubmitJob | StopJob]]:
    """The state with a batch's new fires, and the jobs to start and to stop. Appends what changed to `events`.

    `refused` has, by job, why it could not be submitted at the last try. A paused batch fires no more by itself; what it has
    under way is followed to its end.
    """
    feed = state.feeds[key]
    schedule = feed.spec.schedule
    if feed.spec.kind is not FeedKind.BATCH or (schedule is None and not feed.fires):
        return state, []
    since_s = now_s if feed.wanted is Wanted.PAUSED else feed.since_s
    seen = look(feed.spec.name, schedule, feed.fires, jobs, since_s=since_s, now_s=now_s, refused=refused)
    if seen.fires != feed.fires:
        events += _told(feed, schedule, seen.fires, now_s)
        state = replace(state, feeds={**state.feeds, key: replace(feed, fires=seen.fires)})
    return state, list(seen.actions)


def _told(feed: Feed, schedule: Schedule | None, after: tuple[Fire, ...], now_s: float) -> list[AuditEvent]:
    name, model = feed.spec.name, feed.spec.model
    before = {job_of(name, fire, 0): fire.state for fire in feed.fires}
    return [
        AuditEvent(
            now_s, model, None, f"batch {fire.state}", SCHEDULE if not fire.by else CONTROLLER, _detail(name, schedule, fire)
        )
        for fire in after
        if before.get(job_of(name, fire, 0)) is not fire.state
    ]


def _detail(name: str, schedule: Schedule | None, fire: Fire) -> dict[str, object]:
    told: dict[str, object] = {"batch": name, "job": job_of(name, fire)}
    if schedule is not None and not fire.by:
        told["cron"] = schedule.cron
    return told | {"reason": fire.reason}
