"""What each command does to the state. Pure but for the audit, which is read from the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.commands import requests as c
from cluster.commands import views
from cluster.commands.applying import apply
from cluster.decide import settle, transition
from cluster.errors import Conflict, NotFound
from cluster.fleet.serving import ScalingMode
from cluster.ports import AppState, FeedState
from cluster.rollout.evidence import Counts, EvidenceKey
from cluster.rollout.gate import judge
from cluster.rollout.labels import judge_labels, stage_of
from cluster.rollout.opening import open_rollout
from cluster.rollout.plan import NamedPlan, named_plan
from cluster.rollout.record import IllegalTransition, Rollout, RolloutState
from cluster.routing.table import is_ready
from cluster.state import AuditEvent, Feed, Model, State, Wanted, feed_key
from cluster.versions import Version, VersionId, check_name


@dataclass(frozen=True, slots=True)
class Context:
    """What a command may look at. `apps` and `feeds` are as last seen, at `tick_s` (0: not yet).

    `faults` are mistakes of ours at the last tick, in words, by model or feed key. `actor` is who asks.
    """

    state: State
    apps: Mapping[str, AppState]
    feeds: Mapping[str, FeedState]
    tick_s: float
    now_s: float
    audit: Callable[[str], list[AuditEvent]]
    faults: Mapping[str, str]
    actor: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to save and what to answer."""

    state: State
    answer: c.Message
    events: tuple[AuditEvent, ...] = ()


Handler = Callable[[Context, Any], Outcome]


def _status(at: Context, _: c.Nothing) -> Outcome:
    return Outcome(at.state, views.status_view(at.state, at.apps, at.feeds, at.tick_s, at.now_s, at.faults))


def _register(at: Context, request: c.RegisterVersion) -> Outcome:
    check_name(request.model, what="model")
    for known in at.state.versions_of(request.model):
        if known.digest == request.digest:
            return Outcome(at.state, views.version_view(at.state, known))
    model = at.state.models.get(request.model, Model(request.model))
    version = Version(
        id=VersionId(request.model, model.last_number + 1),
        artifact_uri=request.artifact_uri,
        digest=request.digest,
        engine=request.engine,
        signature=request.signature,
        created_s=at.now_s,
    )
    state = replace(at.state, versions=at.state.versions.adding(version))
    state = state.with_model(replace(model, last_number=version.id.number))
    event = AuditEvent(
        at.now_s, request.model, None, "registered", at.actor, {"version": version.id.number, "digest": version.digest}
    )
    return Outcome(state, views.version_view(state, version), (event,))


def _resolve(at: Context, request: c.Resolve) -> Outcome:
    model = _model(at.state, request.model)
    number = request.version if request.version is not None else model.stable
    if number is None:
        raise NotFound(
            "it has no stable version yet",
            where=f"model {model.name}",
            remedy="build a version, apply the model and wait until `headrace status` shows it ready",
        )
    return Outcome(at.state, views.version_view(at.state, _version(at.state, model.name, number)))


def _remove(at: Context, request: c.Resolve) -> Outcome:
    model = _model(at.state, request.model)
    if request.version is None:
        raise Conflict("which version to remove was not said", where=f"model {model.name}", remedy="name the version")
    version = _version(at.state, model.name, request.version)
    role = views.version_role(at.state, model, request.version)
    if role != "idle":
        raise Conflict(f"it is {role}", where=str(version.id), remedy="move the model to another version first")
    if version.id.app in at.apps:
        raise Conflict("its replicas are still going away", where=str(version.id), remedy="try again in a few seconds")
    event = AuditEvent(at.now_s, model.name, None, "removed", at.actor, {"version": request.version})
    return Outcome(replace(at.state, versions=at.state.versions.without(version.id)), c.Nothing(), (event,))


def _show_model(at: Context, request: c.ModelName) -> Outcome:
    return Outcome(at.state, views.model_view(at.state, _model(at.state, request.model), at.apps, at.now_s, at.faults))


def _scale(at: Context, request: c.ScaleModel) -> Outcome:
    model = _model(at.state, request.model)
    if model.serving is None or model.serving.scaling.mode is not ScalingMode.MANUAL:
        raise Conflict(
            "it is not scaled by hand", where=f"model {model.name}", remedy="apply it with `serving: {scaling: manual}`"
        )
    changed = replace(model, scale_to=request.replicas) if model.stable is not None else replace(model, replicas=request.replicas)
    event = AuditEvent(at.now_s, model.name, None, "scaled", at.actor, {"replicas": request.replicas})
    return Outcome(at.state.with_model(changed), c.Nothing(), (event,))


def _start_rollout(at: Context, request: c.StartRollout) -> Outcome:
    model = _model(at.state, request.model)
    if model.serving is None or model.plan is None:
        raise Conflict("only its versions are known", where=f"model {model.name}", remedy="`headrace apply` its document first")
    plan = named_plan(request.plan, model.plan) if isinstance(request.plan, NamedPlan) else request.plan or model.plan
    if request.version is None and not at.state.versions_of(model.name):
        raise NotFound("it has no versions", where=f"model {model.name}", remedy="`headrace build` one first")
    version = request.version if request.version is not None else at.state.versions_of(model.name)[-1].id.number
    state, events, active = at.state, list[AuditEvent](), at.state.active(model.name)
    if active is not None:
        if not request.supersede:
            raise Conflict(
                f"rollout {active.id}, to version {active.candidate}, is under way",
                where=f"model {model.name}",
                remedy="let it end, abort it, or start with supersede",
            )
        ended = active.to(RolloutState.SUPERSEDED, at.now_s, reason=f"a rollout to version {version} took its place")
        events.append(transition(active, ended, judge(active, state.evidence), at.now_s, at.actor))
        state = settle(state, ended, at.now_s)
    state, started = open_rollout(state, model.name, version, plan, at.actor, at.now_s, compatible=request.compatible)
    return _rollout_outcome(state, model.name, events + started)


def _rollout_status(at: Context, request: c.ModelName) -> Outcome:
    _model(at.state, request.model)
    rollout = at.state.rollout_of(request.model)
    return Outcome(at.state, c.RolloutStatus(rollout=views.rollout_view(at.state, rollout) if rollout is not None else None))


def _rollout_history(at: Context, request: c.ModelName) -> Outcome:
    _model(at.state, request.model)
    rollouts = sorted((r for r in at.state.rollouts.values() if r.model == request.model), key=lambda r: -r.id)
    return Outcome(
        at.state,
        c.RolloutHistory(
            rollouts=tuple(views.rollout_view(at.state, rollout) for rollout in rollouts),
            audit=tuple(views.audit_view(event) for event in at.audit(request.model)),
        ),
    )


def _pause(at: Context, request: c.ModelName) -> Outcome:
    active = _active(at.state, request.model)
    if active.state is RolloutState.PAUSED:
        return _rollout_outcome(at.state, request.model, [])
    return _move(at, active, active.to(RolloutState.PAUSED, at.now_s, reason=f"paused by {at.actor}"))


def _resume(at: Context, request: c.ModelName) -> Outcome:
    active = _active(at.state, request.model)
    if active.paused_from is None:
        return _rollout_outcome(at.state, request.model, [])
    return _move(at, active, active.to(active.paused_from, at.now_s))


def _promote(at: Context, request: c.ModelName) -> Outcome:
    active = _active(at.state, request.model)
    if active.phase is RolloutState.PENDING or not is_ready(at.apps.get(VersionId(active.model, active.candidate).app)):
        raise IllegalTransition(
            f"version {active.candidate} is not ready",
            where=f"rollout {active.id} of {active.model}",
            remedy="wait until `headrace rollout status` no longer says warming, or abort it",
        )
    return _move(at, active, active.to(RolloutState.PROMOTED, at.now_s, reason=f"promoted by {at.actor}"))


def _abort(at: Context, request: c.ModelName) -> Outcome:
    active = _active(at.state, request.model)
    return _move(at, active, active.to(RolloutState.ROLLED_BACK, at.now_s, reason=f"aborted by {at.actor}"))


def _label(at: Context, request: c.TellLabels) -> Outcome:
    active = _active(at.state, request.model)
    check = active.plan.checks.labels
    if check is None:
        raise Conflict(
            "its plan has no labels check",
            where=f"rollout {active.id} of {active.model}",
            remedy="add `checks: {labels: ...}` to the Model's rollout section, and start it again",
        )
    state, scorer = at.state, f"labels/{request.model}/{request.source}"
    if request.source and request.sequence <= state.scorers.get(scorer, -1):
        return Outcome(state, c.LabelsTold(counted=0, elsewhere=len(request.labels), refused=0))
    told = judge_labels(active, check, ((one.key, one.label) for one in request.labels))
    evidence = dict(state.evidence)
    for version, counts in told.counts.items():
        key = EvidenceKey(active.model, stage_of(active), version)
        evidence[key] = evidence.get(key, Counts()) + counts
    scorers = {**state.scorers, scorer: request.sequence} if request.source else state.scorers
    counted = sum(counts.labelled for counts in told.counts.values())
    answer = c.LabelsTold(
        counted=counted,
        elsewhere=len(request.labels) - counted - len(told.refused),
        refused=len(told.refused),
        reasons=told.refused[: c.REASONS_AT_MOST],
    )
    return Outcome(replace(state, evidence=evidence, scorers=scorers), answer)


def _list_feeds(at: Context, _: c.Nothing) -> Outcome:
    feeds = (at.state.feeds[name] for name in sorted(at.state.feeds))
    return Outcome(at.state, c.FeedList(feeds=tuple(views.feed_view(feed, at.feeds, at.now_s, at.faults) for feed in feeds)))


def _show_feed(at: Context, request: c.FeedName) -> Outcome:
    return Outcome(at.state, views.feed_view(_feed(at.state, request), at.feeds, at.now_s, at.faults))


def _pause_feed(at: Context, request: c.FeedName) -> Outcome:
    return _want(at, request, Wanted.PAUSED)


def _resume_feed(at: Context, request: c.FeedName) -> Outcome:
    return _want(at, request, Wanted.RUNNING)


def _feed_notes(at: Context, request: c.FeedNotes) -> Outcome:
    feed = _feed(at.state, c.FeedName(kind=request.kind, name=request.name))
    notes = {**feed.notes, **request.notes}
    if len(notes) > c.NOTES_AT_MOST:
        raise Conflict(
            f"it would remember more than {c.NOTES_AT_MOST} things",
            where=f"{request.kind} {request.name}",
            remedy="split it, or give it fewer topics: it remembers each topic and each partition that it reads",
        )
    state = at.state
    if notes != feed.notes:
        state = replace(state, feeds={**state.feeds, feed.spec.app: replace(feed, notes=notes)})
    return Outcome(state, c.FeedNotes(kind=request.kind, name=request.name, notes=notes))


def _apply(at: Context, request: c.Apply) -> Outcome:
    state, applied, events = apply(at.state, request, at.actor, at.now_s)
    return Outcome(state, applied, tuple(events))


HANDLERS: dict[str, Handler] = {
    "status": _status,
    "apply": _apply,
    "version.register": _register,
    "version.resolve": _resolve,
    "version.remove": _remove,
    "model.show": _show_model,
    "model.scale": _scale,
    "rollout.start": _start_rollout,
    "rollout.status": _rollout_status,
    "rollout.history": _rollout_history,
    "rollout.pause": _pause,
    "rollout.resume": _resume,
    "rollout.promote": _promote,
    "rollout.abort": _abort,
    "rollout.label": _label,
    "feed.list": _list_feeds,
    "feed.show": _show_feed,
    "feed.pause": _pause_feed,
    "feed.resume": _resume_feed,
    "feed.notes": _feed_notes,
}


def _want(at: Context, request: c.FeedName, wanted: Wanted) -> Outcome:
    feed = _feed(at.state, request)
    if feed.wanted is wanted:
        return Outcome(at.state, views.feed_view(feed, at.feeds, at.now_s, at.faults))
    # What a schedule would have fired while paused is not missed.
    feed = replace(feed, wanted=wanted, since_s=at.now_s)
    state = replace(at.state, feeds={**at.state.feeds, feed.spec.app: feed})
    return Outcome(state, views.feed_view(feed, at.feeds, at.now_s, at.faults))


def _move(at: Context, before: Rollout, after: Rollout) -> Outcome:
    event = transition(before, after, judge(before, at.state.evidence), at.now_s, at.actor)
    return _rollout_outcome(settle(at.state, after, at.now_s), after.model, [event])


def _rollout_outcome(state: State, model: str, events: list[AuditEvent]) -> Outcome:
    rollout = state.rollout_of(model)
    if rollout is None:
        raise NotFound("it has had no rollout", where=f"model {model}", remedy="`headrace rollout start` one")
    return Outcome(state, views.rollout_view(state, rollout), tuple(events))


def _model(state: State, name: str) -> Model:
    if name not in state.models:
        known = ", ".join(sorted(state.models)) or "none yet"
        raise NotFound(f"there is no model {name!r}", where="model", remedy=f"known models: {known}")
    return state.models[name]


def _version(state: State, model: str, number: int) -> Version:
    version = state.versions.get(VersionId(model, number))
    if version is None:
        known = ", ".join(str(v.id.number) for v in state.versions_of(model)) or "none"
        raise NotFound(f"there is no version {number}", where=f"model {model}", remedy=f"versions: {known}")
    return version


def _active(state: State, model: str) -> Rollout:
    _model(state, model)
    active = state.active(model)
    if active is None:
        raise Conflict("no rollout is under way", where=f"model {model}", remedy="`headrace rollout start` one")
    return active


def _feed(state: State, request: c.FeedName) -> Feed:
    feed = state.feeds.get(feed_key(request.kind, request.name))
    if feed is None:
        known = ", ".join(sorted(f.spec.name for f in state.feeds.values() if f.spec.kind == request.kind)) or "none yet"
        raise NotFound(f"there is no {request.kind} {request.name!r}", where=request.kind, remedy=f"known: {known}")
    return feed
