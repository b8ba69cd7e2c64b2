"""The state as commands show it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from cluster.commands import AppView, AuditView, CheckView, FeedView, ModelView, RolloutView, StatusView, VersionView
from cluster.gate import Judged, judge
from cluster.ports import AppState, FeedKind, FeedState
from cluster.rollout import Rollout, RolloutState
from cluster.state import AuditEvent, Feed, Model, State
from cluster.table import shares
from cluster.versions import Version


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
    )


def audit_view(event: AuditEvent) -> AuditView:
    """One audit event."""
    return AuditView(
        at_s=event.at_s, model=event.model, rollout=event.rollout, event=event.event, actor=event.actor, detail=event.detail
    )


def app_view(app: AppState) -> AppView:
    """One app as seen."""
    return AppView(
        app=app.name,
        status=app.status.value,
        replicas=app.replicas,
        target_replicas=app.target_replicas,
        message=app.message,
    )


def model_view(state: State, model: Model, apps: Mapping[str, AppState]) -> ModelView:
    """One model with everything about it."""
    versions = state.versions_of(model.name)
    rollout, active = state.rollout_of(model.name), state.active(model.name)
    return ModelView(
        name=model.name,
        stable=model.stable,
        candidate=active.candidate if active is not None else None,
        serving=model.serving,
        plan=model.plan,
        versions=tuple(version_view(state, version) for version in versions),
        apps=tuple(app_view(apps[version.id.app]) for version in versions if version.id.app in apps),
        rollout=rollout_view(state, rollout) if rollout is not None else None,
    )


def feed_view(feed: Feed, seen: Mapping[str, FeedState]) -> FeedView:
    """One feed: what is wanted, and what is seen."""
    spec = feed.spec
    running = seen.get(spec.name) if spec.kind is FeedKind.STREAM else None
    if running is not None:
        status, replicas, message = running.app.status.value, running.app.replicas, running.app.message
    else:
        status, replicas, message = ("declared" if spec.kind is FeedKind.BATCH else "stopped"), 0, ""
    return FeedView(
        kind=spec.kind.value,
        name=spec.name,
        model=spec.model,
        wanted=feed.wanted.value,
        status=status,
        replicas=replicas,
        message=message,
        spec=json.loads(spec.document),
        workers=running.workers if running is not None else (),
    )


def status_view(state: State, apps: Mapping[str, AppState], feeds: Mapping[str, FeedState], tick_s: float) -> StatusView:
    """Everything at a glance."""
    return StatusView(
        table=state.table,
        tick_s=tick_s,
        models=tuple(model_view(state, state.models[name], apps) for name in sorted(state.models)),
        feeds=tuple(feed_view(state.feeds[name], feeds) for name in sorted(state.feeds)),
    )
