"""Removing a model, a stream or a batch: what a tick does, for as long as any of it is left. Pure.

A stream drains and a batch's job is stopped before it is forgotten. A model waits for those that still score with it, leaves the
route table, and is forgotten once its replicas are gone and, where that was asked for, its artifacts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from cluster.fleet.desired import RETIRE_GRACE_S, Action, RemoveArtifact, Retire, StopFeed
from cluster.fleet.retry import Retry, backoff_s
from cluster.ports import AppState, AppStatus, FeedKind, FeedState
from cluster.schedule.fires import jobs_of
from cluster.schedule.jobs import JobSeen, JobState, StopJob
from cluster.state import CONTROLLER, AuditEvent, Feed, Model, State
from cluster.versions import VersionId

DELETED = "deleted"  # in the audit: nothing of it is left
LAST_NUMBER = "last_number"


def dependents(state: State, model: str) -> list[Feed]:
    """The streams and batches that score with the model."""
    return [feed for feed in state.feeds.values() if feed.spec.model == model]


def advance_removal(
    state: State,
    name: str,
    running: Collection[int],
    refused: Mapping[str, str],
    removed: Collection[str],
    now_s: float,
    events: list[AuditEvent],
) -> State:
    """The state with the model a step nearer to its end, or without it. `running` are its versions that have an app.

    `refused` has, by URI, why an artifact could not be removed at the last try; `removed` the URIs of those that were.
    """
    model = state.models[name]
    removal = model.removal
    if removal is None or dependents(state, name):
        return state
    if removal.unrouted_s is None:
        removal = replace(removal, unrouted_s=now_s)
        state = state.with_model(replace(model, removal=removal))
    if any(VersionId(name, number) in state.versions for number in running):
        return state
    if removal.artifacts:
        left = _artifacts(state, name, removed)
        for version in state.versions_of(name):
            if version.artifact_uri not in left:
                state = replace(state, versions=state.versions.without(version.id))
        if left:
            return _noted(state, name, [refused[uri] for uri in left if uri in refused], now_s)
    events.append(AuditEvent(now_s, name, None, DELETED, CONTROLLER, {LAST_NUMBER: model.last_number}))
    return _without(state, name)


def removal_actions(
    state: State, model: Model, apps: Mapping[str, AppState], running: Collection[int], now_s: float
) -> list[Action]:
    """What the end of an unrouted model takes: its replicas go once every scorer has seen the table, then its files."""
    removal = model.removal
    if removal is None or removal.unrouted_s is None:
        return []
    names = [VersionId(model.name, number).app for number in sorted(running) if VersionId(model.name, number) in state.versions]
    if names:
        late = now_s >= removal.unrouted_s + RETIRE_GRACE_S
        return [Retire(name) for name in names if late and apps[name].status is not AppStatus.STOPPING]
    due = removal.retry is None or removal.retry.next_s is None or now_s >= removal.retry.next_s
    return [RemoveArtifact(model.name, uri) for uri in _artifacts(state, model.name, ()) if removal.artifacts and due]


def remove_feed(
    state: State,
    key: str,
    seen: Mapping[str, FeedState] | None,
    jobs: Mapping[str, JobSeen] | None,
    now_s: float,
    events: list[AuditEvent],
) -> tuple[State, list[Action]]:
    """The state without the stream or batch, where nothing of it runs any more; else what ends it."""
    feed = state.feeds[key]
    name, kind = feed.spec.name, feed.spec.kind
    may_run, ends = _stream_left(name, seen) if kind is FeedKind.STREAM else _jobs_left(feed, jobs, now_s)
    if may_run:
        return state, ends
    events.append(AuditEvent(now_s, feed.spec.model, None, DELETED, CONTROLLER, {"kind": kind.value, "name": name}))
    return replace(state, feeds={other: kept for other, kept in state.feeds.items() if other != key}), []


def _stream_left(name: str, seen: Mapping[str, FeedState] | None) -> tuple[bool, list[Action]]:
    """Whether any of the stream may still run, and what ends it."""
    if seen is None:
        return True, []
    running = seen.get(name)
    drains = running is not None and running.app.status is AppStatus.STOPPING
    return running is not None, [StopFeed(name)] if running is not None and not drains else []


def _jobs_left(feed: Feed, jobs: Mapping[str, JobSeen] | None, now_s: float) -> tuple[bool, list[Action]]:
    """Whether a job of the batch's schedule may still run, and what ends it."""
    asked = jobs_of(feed.spec.name, feed.fires, now_s)
    if jobs is None:
        return bool(asked), []
    busy = sorted(job for job in asked if job in jobs and jobs[job].state is JobState.RUNNING)
    return bool(busy), [StopJob(job) for job in busy]


def _artifacts(state: State, name: str, removed: Collection[str]) -> list[str]:
    """The URIs of its artifacts that are still to be removed; not of those that are another model's too. A place has several
    URIs, but what stands there one digest: by another way of writing it, nobody has another model's files deleted."""
    others = {version.digest for version in state.versions.values() if version.id.model != name}
    uris = dict.fromkeys(version.artifact_uri for version in state.versions_of(name) if version.digest not in others)
    return [uri for uri in uris if uri not in removed]


def _noted(state: State, name: str, reasons: list[str], now_s: float) -> State:
    """The state with the failures to remove artifacts counted as one; the next try waits longer each time."""
    model = state.models[name]
    if model.removal is None or not reasons:
        return state
    failures = 1 if model.removal.retry is None else model.removal.retry.failures + 1
    retry = Retry(failures, reasons[0], now_s + backoff_s(failures))
    return state.with_model(replace(model, removal=replace(model.removal, retry=retry)))


def _without(state: State, name: str) -> State:
    """Nothing of the model stays but its audit."""
    versions = state.versions
    for version in state.versions_of(name):
        versions = versions.without(version.id)
    return replace(
        state,
        versions=versions,
        models={other: model for other, model in state.models.items() if other != name},
        rollouts={id_: rollout for id_, rollout in state.rollouts.items() if rollout.model != name},
        evidence=state.evidence.without(lambda model, _: model == name),
        scorers={scorer: last for scorer, last in state.scorers.items() if not scorer.startswith(f"labels/{name}/")},
    )
