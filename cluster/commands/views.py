"""The state as commands show it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from cluster.commands.requests import (
    AppView,
    AuditView,
    CheckView,
    FeedView,
    FireView,
    ModelView,
    RolloutView,
    ScheduleView,
    StatusView,
    VersionView,
)
from cluster.errors import in_words
from cluster.fleet.retry import Retry
from cluster.ports import AppState, AppStatus, FeedKind, FeedState
from cluster.rollout.gate import Judged, judge
from cluster.rollout.record import Rollout, RolloutState
from cluster.routing.table import shares
from cluster.schedule.fires import job_id, next_fires
from cluster.state import AuditEvent, Feed, Model, State, Wanted
from cluster.versions import Version

NEXT_FIRES = 3


def version_role(state: State, model: Model, number: int) -> str:
    """What a version is to its model now: stable, candidate, warm or idle."""
    rollout = state.active(model.name)
    if model.stable == number:
        return "stable"
    if rollout is not None and rollout.candidate == number:
        return "candidate"
    return "warm" if number in model.warm else "idle"


def version_view(state: State, version: Version) -> VersionView:
    """One version."""
    return VersionView(
        model=version.id.model,
        version=version.id.number,
        artifact_uri=version.artifact_uri,
        digest=version.digest,
        engine=version.engine,
        signature=version.signature,
        created_s=version.created_s,
        role=version_role(state, state.models[version.id.model], version.id.number),
    )


def rollout_view(state: State, rollout: Rollout) -> RolloutView:
    """One rollout with its checks as they stand; no checks once it has ended (the audit has the last)."""
    weight, shadow = shares(rollout)
    if rollout.state is RolloutState.PROMOTED:
        weight = 10_000
    judged = judge(rollout, state.evidence) if not rollout.ended else ()
    return RolloutView(
        id=rollout.id,
        model=rollout.model,
        candidate=rollout.candidate,
        stable=rollout.stable,
        state=rollout.state.value,
        step=rollout.reached,
        steps=len(rollout.plan.steps),
        weight=weight / 100,
        shadow=shadow / 100,
        paused=rollout.state is RolloutState.PAUSED,
        reason=rollout.reason,
        started_s=rollout.started_s,
        ended_s=rollout.ended_s,
        checks=tuple(check_view(check) for check in judged),
    )


def check_view(check: Judged) -> CheckView:
    """One check."""
    return CheckView(
        name=check.name,
        low=check.interval.low,
        high=check.interval.high,
        margin=check.margin,
        verdict=check.verdict.value,
        words=check.words,
        observed=check.observed,
    )


def audit_view(event: AuditEvent) -> AuditView:
    """One audit event."""
    return AuditView(
        at_s=event.at_s, model=event.model, rollout=event.rollout, event=event.event, actor=event.actor, detail=event.detail
    )


def app_view(name: str, app: AppState | None, retry: Retry | None, now_s: float) -> AppView | None:
    """A version's app as seen, and when it is tried again; None where there is nothing to tell of it."""
    if app is None and retry is None:
        return None
    seen = app or AppState(name, AppStatus.FAILED, 0, 0)
    message = seen.message
    if retry is not None:
        message = "; ".join(part for part in (message or retry.reason, _tried_again(retry, now_s)) if part)
    return AppView(
        app=name,
        status=seen.status.value,
        replicas=seen.replicas,
        target_replicas=seen.target_replicas,
        message=message,
        next_try_s=retry.next_s if retry is not None else None,
    )


def _tried_again(retry: Retry, now_s: float) -> str:
    failed = f"failed {retry.failures} times" if retry.failures > 1 else "failed once"
    if retry.next_s is None:
        return f"{failed}, is being tried again"
    return f"{failed}, is tried again in {max(retry.next_s - now_s, 0):.0f} s"


def model_view(state: State, model: Model, apps: Mapping[str, AppState], now_s: float, faults: Mapping[str, str]) -> ModelView:
    """One model with everything about it; with as much as its name where a mistake of ours is in the way of the rest."""
    try:
        return _model_view(state, model, apps, now_s, faults.get(model.name, ""))
    except Exception as fault:  # noqa: BLE001 - what stops one model must not hide all others, nor itself
        told = faults.get(model.name) or in_words(fault)
        return ModelView(
            name=model.name,
            stable=model.stable,
            candidate=None,
            serving=model.serving,
            plan=model.plan,
            versions=(),
            apps=(),
            rollout=None,
            fault=told,
        )


def _model_view(state: State, model: Model, apps: Mapping[str, AppState], now_s: float, fault: str) -> ModelView:
    versions = state.versions_of(model.name)
    rollout, active = state.rollout_of(model.name), state.active(model.name)
    names = {version.id.number: version.id.app for version in versions}
    seen = (app_view(name, apps.get(name), model.retries.get(number), now_s) for number, name in names.items())
    return ModelView(
        name=model.name,
        stable=model.stable,
        candidate=active.candidate if active is not None else None,
        serving=model.serving,
        plan=model.plan,
        versions=tuple(version_view(state, version) for version in versions),
        apps=tuple(app for app in seen if app is not None),
        rollout=rollout_view(state, rollout) if rollout is not None else None,
        fault=fault,
    )


def schedule_view(feed: Feed, now_s: float) -> ScheduleView | None:
    """When a batch runs; None where it has no schedule."""
    schedule, name = feed.spec.schedule, feed.spec.name
    if schedule is None:
        return None
    return ScheduleView(
        cron=schedule.cron,
        timezone=schedule.timezone,
        next_s=tuple(next_fires(schedule, max(now_s, feed.since_s), NEXT_FIRES)) if feed.wanted is Wanted.RUNNING else (),
        fires=tuple(
            FireView(
                at_s=fire.at_s,
                state=fire.state.value,
                job=job_id(name, fire.at_s, fire.attempt),
                attempt=fire.attempt,
                ended_s=fire.ended_s,
                reason=fire.reason,
            )
            for fire in feed.fires
        ),
    )


def feed_view(feed: Feed, seen: Mapping[str, FeedState], now_s: float, faults: Mapping[str, str]) -> FeedView:
    """One feed: what is wanted, and what is seen. What runs of an older document is not told as if it were of this one."""
    spec = feed.spec
    running = seen.get(spec.name) if spec.kind is FeedKind.STREAM else None
    older = running is not None and running.digest not in (spec.digest, "")  # "": Serve does not say yet
    if running is not None and older:
        status = (AppStatus.STARTING if feed.wanted is Wanted.RUNNING else AppStatus.STOPPING).value
        replicas, message = 0, f"what runs of the last document drains first ({running.app.replicas} replicas)"
    elif running is not None:
        status, replicas, message = running.app.status.value, running.app.replicas, running.app.message
    else:
        status, replicas, message = ("declared" if spec.kind is FeedKind.BATCH else "stopped"), 0, ""
        if feed.retry is not None and feed.retry.next_s is not None:
            status = AppStatus.FAILED.value
    if feed.retry is not None:
        message = "; ".join((message or feed.retry.reason, _tried_again(feed.retry, now_s)))
    return FeedView(
        kind=spec.kind.value,
        name=spec.name,
        model=spec.model,
        wanted=feed.wanted.value,
        status=status,
        replicas=replicas,
        message=faults.get(spec.app, message),
        spec=json.loads(spec.document),
        workers=running.workers if running is not None and not older else (),
        schedule=schedule_view(feed, now_s),
    )


def status_view(
    state: State,
    apps: Mapping[str, AppState],
    feeds: Mapping[str, FeedState],
    tick_s: float,
    now_s: float,
    faults: Mapping[str, str],
) -> StatusView:
    """Everything at a glance."""
    return StatusView(
        table=state.table,
        tick_s=tick_s,
        models=tuple(model_view(state, state.models[name], apps, now_s, faults) for name in sorted(state.models)),
        feeds=tuple(feed_view(state.feeds[name], feeds, now_s, faults) for name in sorted(state.feeds)),
    )
