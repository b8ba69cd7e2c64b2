"""Versions and streams that should run and failed to start: what is remembered, so that they are tried again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.fleet.desired import needed
from cluster.fleet.retry import Retry, after_look
from cluster.ports import AppState, AppStatus, FeedKind, FeedState
from cluster.rollout.record import RolloutState
from cluster.state import CONTROLLER, AuditEvent, State, Wanted
from cluster.versions import VersionId


def tried(name: str, app: AppState | None, refused: Mapping[str, str]) -> AppState | None:
    """The app as seen; as failed where at the last try nobody would even begin to run it."""
    return AppState(name, AppStatus.FAILED, 0, 0, refused[name]) if name in refused else app


def note_failures(
    state: State,
    name: str,
    apps: Mapping[str, AppState],
    refused: Mapping[str, str],
    now_s: float,
    events: list[AuditEvent],
    *,
    outage: bool,
    told: bool,
) -> State:
    """Remembers which versions that should run have failed to start, and when each is tried again.

    A candidate's failure ends its rollout instead, but for one during an `outage`, when stable is away as well, and for a
    transient one, for which the rollout waits. Appends the first failure in a row to `events`, and what ends the row; not of a
    candidate where the rollout has `told` of it.
    """
    model, rollout = state.models[name], state.active(name)
    retries: dict[int, Retry] = {}
    if model.serving is None:
        return state
    for number in needed(state, model, now_s, grace_s=0.0):
        known, candidate = model.retries.get(number), rollout is not None and rollout.candidate == number
        app = tried(VersionId(name, number).app, apps.get(VersionId(name, number).app), refused)
        if candidate and not (outage or (known is not None and known.next_s is not None) or _may_pass(known, app)):
            continue
        if candidate and rollout is not None and rollout.phase is RolloutState.PENDING:
            continue
        after = after_look(known, app, now_s)
        if after is not None:
            retries[number] = after
        if not (candidate and told):
            events += _told(name, {"version": number}, known, after, now_s)
    return state if retries == model.retries else state.with_model(replace(model, retries=retries))


def _may_pass(known: Retry | None, app: AppState | None) -> bool:
    """Whether it failed for what is not its own; while it is tried again for that, whether it has not failed otherwise."""
    if app is None or app.status is not AppStatus.FAILED:
        return known is not None
    return app.transient


def note_failed_stream(
    state: State,
    key: str,
    seen: Mapping[str, FeedState] | None,
    refused: Mapping[str, str],
    now_s: float,
    events: list[AuditEvent],
) -> State:
    """Remembers a stream that should run and failed to start, or whose document was refused, as `note_failures` does versions."""
    feed = state.feeds[key]
    if feed.spec.kind is not FeedKind.STREAM or seen is None:
        return state
    running = seen.get(feed.spec.name)
    app = running.app if running is not None and running.digest == feed.spec.digest else None
    after = after_look(feed.retry, tried(key, app, refused), now_s) if feed.wanted is Wanted.RUNNING else None
    if after == feed.retry:
        return state
    if feed.wanted is Wanted.RUNNING:
        events += _told(feed.spec.model, {"kind": "stream", "name": feed.spec.name}, feed.retry, after, now_s)
    return replace(state, feeds={**state.feeds, key: replace(feed, retry=after)})


def _told(model: str, what: dict[str, object], known: Retry | None, after: Retry | None, now_s: float) -> list[AuditEvent]:
    """Of a row of failures the first and the end: else they would fill the audit for as long as something is away."""
    if known is None and after is not None:
        return [AuditEvent(now_s, model, None, "failed", CONTROLLER, {**what, "reason": after.reason})]
    if known is not None and after is None:
        return [AuditEvent(now_s, model, None, "started again", CONTROLLER, {**what, "failures": known.failures})]
    return []
