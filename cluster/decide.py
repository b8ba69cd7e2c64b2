"""All policy: from what is remembered and what is seen to what shall be remembered and done. Pure, level-triggered, idempotent.

`decide` may be called again at any time with what its last call returned: it then changes only what time and the world changed.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from cluster.drift.following import held_by_drift, run_commands
from cluster.errors import Conflict, NotFound
from cluster.fleet.desired import Action, by_hand, feed_actions, fleet_actions, forget_cold, learn_scale, running_versions
from cluster.fleet.failures import note_failed_stream, note_failures, tried
from cluster.fleet.seeks import end_lost_seek
from cluster.fleet.waiting import after_job, lacking
from cluster.fleet.waiting import after_look as after_wait
from cluster.ports import AppState, AppStatus, FeedState
from cluster.removal import advance_removal, removal_actions, remove_feed
from cluster.rollout.advance import next_of
from cluster.rollout.checks.check import Judged, Verdict
from cluster.rollout.gate import judge, of_stage, parts_of_stage
from cluster.rollout.illness import after_look
from cluster.rollout.misses import MARGIN, Misses, after_counts
from cluster.rollout.opening import open_rollout
from cluster.rollout.plan import Start
from cluster.rollout.record import Rollout, RolloutState
from cluster.routing.routes import EMPTY, Route, RouteTable, Standing
from cluster.routing.table import build_route, is_ready, number_table, standing_of
from cluster.schedule.due import fire_batch
from cluster.schedule.jobs import JobSeen, SubmitPreflight
from cluster.state import CONTROLLER, AuditEvent, Model, State
from cluster.versions import VersionId


@dataclass(frozen=True, slots=True)
class Rest:
    """A model about which nothing was to be done, and all that this followed from: while that is the same, nothing is to be done
    again, whatever the time is. With a thousand models a tick is mostly about those."""

    model: Model
    newest: int
    app: AppState
    route: Route
    standing: Standing

    def lasts(self, snapshot: Snapshot, state: State, running: Collection[int]) -> bool:
        """Whether all is the same; `running` are the versions that have an app."""
        name = self.model.name
        return (
            state.models[name] is self.model
            and len(running) == 1
            and snapshot.apps.get(self.app.name) == self.app
            and state.versions.newest(name) == self.newest
            and snapshot.published.routes.get(name) is self.route
            and snapshot.published.models.get(name) is self.standing
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is remembered and what is seen. `feeds` and `jobs` are None where they could not be asked.

    `refused` has, by app or job, why it would not be run at the last try, and by URI why an artifact could not be removed;
    `removed` the URIs of those that were; `unscalable` the models that the fleet would not scale.
    `published` is the last table of this controller; the empty one before its first. `fence` is the controller's own. `rests`
    are those of its last decision, where that was saved.
    """

    state: State
    apps: Mapping[str, AppState]
    feeds: Mapping[str, FeedState] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    unscalable: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    published: RouteTable = EMPTY
    fence: int = 0
    jobs: Mapping[str, JobSeen] | None = None
    rests: Mapping[str, Rest] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to save, then publish, then do. Actions are idempotent and come again until the world is as it should be.

    `faults` are mistakes of ours, by model or feed key: that one stays as it is, and all others go on. `rests` are the models
    that wait for nothing.
    """

    state: State
    table: RouteTable
    actions: tuple[Action, ...]
    events: tuple[AuditEvent, ...]
    faults: Mapping[str, Exception] = field(default_factory=dict)
    rests: Mapping[str, Rest] = field(default_factory=dict)


def decide(snapshot: Snapshot, now_s: float) -> Decision:
    """The next state, the route table that goes with it, the actions and the audit of what changed."""
    state, events, actions, routes = snapshot.state, list[AuditEvent](), list[Action](), dict[str, Route]()
    models, published = dict[str, Standing](), snapshot.published
    running, faults, rests = running_versions(snapshot.apps), dict[str, Exception](), dict[str, Rest]()
    for name in sorted(state.models):
        rest = snapshot.rests.get(name)
        if rest is not None and rest.lasts(snapshot, state, running.get(name, ())):
            rests[name], routes[name], models[name] = rest, rest.route, rest.standing
            continue
        before, told = state.models[name], list[AuditEvent]()
        try:
            after = _advance_model(state, name, snapshot, now_s, told)
            state = advance_removal(after, name, running.get(name, ()), snapshot.refused, snapshot.removed, now_s, told)
            events += told
        except Exception as fault:  # noqa: BLE001 - a mistake of ours in one model must not stop the others
            faults[name] = fault
        model = state.models.get(name)
        if model is None:
            continue
        route, standing = published.routes.get(name), published.models.get(name, Standing.EMPTY)
        try:
            # Of what is saved: after a mistake above it still serves, and comes back after the loss of the cluster.
            route = build_route(state, model, snapshot.apps, now_s, route)
            standing = standing_of(state, model, route, snapshot.apps)
            act = removal_actions if model.unrouted else fleet_actions
            due = [*_preflight(state.active(name), snapshot), *act(state, model, snapshot.apps, running.get(name, ()), now_s)]
            actions += due
            if not (due or told or name in faults) and model is before:
                rests |= _rest(state, model, route, standing, snapshot)
        except Exception as fault:  # noqa: BLE001 - as above
            faults.setdefault(name, fault)
        if route is not None:
            routes[model.name] = route
        models[model.name] = standing
    state, commands = run_commands(state, snapshot.jobs, now_s, events)
    actions += commands
    state, table = number_table(state, routes, models, published, snapshot.fence)
    for key in list(state.feeds):
        told = []
        try:
            if state.feeds[key].removal is not None:
                state, moves = remove_feed(state, key, snapshot.feeds, snapshot.jobs, now_s, told)
                actions += moves
                events += told
                continue
            after = end_lost_seek(state, key, now_s, told)
            after = note_failed_stream(after, key, snapshot.feeds, snapshot.refused, now_s, told)
            moves = feed_actions(after, key, snapshot.feeds, now_s)
            state, jobs = fire_batch(after, key, snapshot.jobs, snapshot.refused, now_s, told)
            actions += [*moves, *jobs]
            events += told
        except Exception as fault:  # noqa: BLE001 - as above
            faults[key] = fault
    return Decision(state, table, tuple(actions), tuple(events), faults, rests)


def _rest(state: State, model: Model, route: Route | None, standing: Standing, snapshot: Snapshot) -> dict[str, Rest]:
    """The model's, where neither the time nor anything else than its document, its versions and its app can bring about more."""
    waits = model.warm or model.retries or model.removal is not None or model.scale_to is not None or state.active(model.name)
    if waits or model.stable is None or model.serving is None or route is None:
        return {}
    app = snapshot.apps.get(VersionId(model.name, model.stable).app)
    if app is None or app.status is not AppStatus.READY:
        return {}
    return {model.name: Rest(model, state.versions.newest(model.name), app, route, standing)}


def _advance_model(state: State, name: str, snapshot: Snapshot, now_s: float, events: list[AuditEvent]) -> State:
    if state.models[name].removal is not None:
        state = _end_rollout(state, name, now_s, events)
        if state.models[name].unrouted:
            return state
    state = forget_cold(state, name, now_s)
    state = learn_scale(state, name, snapshot.apps, gave_up=name in snapshot.unscalable)
    state = _start_newest(state, name, now_s, events)
    outage, waited = _outage(state.active(name), snapshot), _waits(state, name)
    state = _note_wait(state, name, snapshot, now_s, events)
    told = waited or _waits(state, name)
    state = note_failures(state, name, snapshot.apps, snapshot.refused, now_s, events, outage=outage, told=told)
    state = _look_at_candidate(state, name, snapshot, now_s)
    while (rollout := state.active(name)) is not None:
        judged = judge(rollout, state.evidence)
        again = rollout.candidate in state.models[name].retries
        job = (snapshot.jobs or {}).get(rollout.preflight_job)
        after = next_of(rollout, _candidate(rollout, snapshot), job, judged, now_s, outage=outage, again=again)
        after = _promoted_without_drift(state, rollout, after, now_s)
        if after == rollout:
            break
        events.append(transition(rollout, after, judged, now_s))
        state = settle(state, after, now_s)
    return state


def _end_rollout(state: State, name: str, now_s: float, events: list[AuditEvent]) -> State:
    """Of a model that is being removed."""
    rollout, removal = state.active(name), state.models[name].removal
    if rollout is None or removal is None:
        return state
    ended = rollout.to(RolloutState.ROLLED_BACK, now_s, reason="its model is being removed")
    events.append(transition(rollout, ended, judge(rollout, state.evidence), now_s, removal.by))
    return settle(state, ended, now_s)


def _start_newest(state: State, name: str, now_s: float, events: list[AuditEvent]) -> State:
    """Starts a rollout of a newer version where the plan says so, or where the model has no stable version yet."""
    model, active = state.models[name], state.active(name)
    newest = state.versions.newest(name)
    if (
        model.plan is None
        or model.removal is not None
        or newest <= max(model.considered, model.stable or 0)
        or (active is not None and not _makes_way(active))
    ):
        return state
    if model.stable is not None and model.plan.start is not Start.AUTO:
        return state
    free, told = state, list[AuditEvent]()
    if active is not None:
        ended = active.to(RolloutState.SUPERSEDED, now_s, reason=f"a rollout to version {newest} took its place")
        told.append(transition(active, ended, judge(active, state.evidence), now_s))
        free = settle(state, ended, now_s)
    try:
        after, started = open_rollout(free, name, newest, model.plan, CONTROLLER, now_s)
    except (Conflict, NotFound) as refusal:
        events.append(AuditEvent(now_s, name, None, "refused", CONTROLLER, {"version": newest, "reason": str(refusal)}))
        return state.with_model(replace(model, considered=newest))
    events += [*told, *started]
    return after


def _makes_way(rollout: Rollout) -> bool:
    """Whether a newer version may take its place: what its candidate lacks may be away for good, and no call has met it yet."""
    return rollout.state is RolloutState.WARMING and rollout.wait is not None


def _preflight(rollout: Rollout | None, snapshot: Snapshot) -> list[Action]:
    """The job to submit, where it is not seen yet."""
    if rollout is None or rollout.plan.preflight is None or not rollout.awaits_preflight:
        return []
    retry = rollout.preflight_retry
    if snapshot.jobs is None or rollout.preflight_job in snapshot.jobs or (retry is not None and retry.next_s is not None):
        return []
    asked = rollout.plan.preflight.model_dump_json()
    return [SubmitPreflight(rollout.preflight_job, rollout.model, rollout.candidate, rollout.id, asked)]


def _candidate(rollout: Rollout, snapshot: Snapshot) -> AppState | None:
    app = VersionId(rollout.model, rollout.candidate).app
    return tried(app, snapshot.apps.get(app), snapshot.refused)


def _outage(rollout: Rollout | None, snapshot: Snapshot) -> bool:
    """Whether stable is away as well, as after the loss of the cluster: that says nothing about the candidate."""
    if rollout is None or rollout.stable is None:
        return False
    return not is_ready(snapshot.apps.get(VersionId(rollout.model, rollout.stable).app))


def _waits(state: State, name: str) -> bool:
    rollout = state.active(name)
    return rollout is not None and rollout.wait is not None


def _note_wait(state: State, name: str, snapshot: Snapshot, now_s: float, events: list[AuditEvent]) -> State:
    """Remembers what the candidate lacks that is not its own, and since when; tells when that begins and is over."""
    rollout = state.active(name)
    if rollout is None or rollout.phase is RolloutState.PENDING:
        return state
    app, job = _candidate(rollout, snapshot), (snapshot.jobs or {}).get(rollout.preflight_job)
    retry = after_job(rollout.preflight_retry, job, now_s) if rollout.awaits_preflight else None
    wait = after_wait(rollout.wait, lacking(app, retry), now_s, patience_s=rollout.plan.deadline_s)
    after = replace(rollout.waiting(wait, now_s), preflight_retry=retry)
    about: dict[str, object] = {"candidate": rollout.candidate, "stage": rollout.stage}
    if wait is not None and rollout.wait is None:
        events.append(AuditEvent(now_s, name, rollout.id, "waits", CONTROLLER, {**about, "reason": wait.words}))
    if wait is None and rollout.wait is not None and is_ready(app):
        waited = f"it waited for {now_s - rollout.wait.since_s:.0f} s, and its candidate is ready"
        events.append(AuditEvent(now_s, name, rollout.id, "goes on", CONTROLLER, {**about, "reason": waited}))
    return state if after == rollout else state.with_rollout(after)


def _look_at_candidate(state: State, name: str, snapshot: Snapshot, now_s: float) -> State:
    """Remembers since when the candidate is ill, or misses calls. While it starts it may be away; once in a step it may not."""
    rollout = state.active(name)
    if rollout is None or rollout.phase is RolloutState.PENDING:
        return state
    app = _candidate(rollout, snapshot)
    ill = rollout.current is not None or (app is not None and app.status is AppStatus.UNHEALTHY)
    excused = rollout.wait is not None or _outage(rollout, snapshot)
    seen = after_look(rollout.illness, ready=is_ready(app), ill=ill, outage=excused, now_s=now_s)
    misses = _misses(rollout, state, now_s)
    if rollout.wait is not None or (app is not None and app.transient):
        misses = misses.excused  # also of one that is ready, and has too few replicas for what others lack
    after = replace(rollout, illness=seen, misses=misses)
    return state if after == rollout else state.with_rollout(after)


def _misses(rollout: Rollout, state: State, now_s: float) -> Misses:
    if rollout.current is None or rollout.stable is None:
        return rollout.misses
    stage, evidence = rollout.stage, state.evidence
    parts = functools.partial(parts_of_stage, rollout, stage, evidence)
    check = rollout.plan.checks.error_rate
    margin = check.margin if check is not None else MARGIN
    return after_counts(rollout.misses, stage, of_stage(rollout, stage, evidence), parts, margin=margin, now_s=now_s)


def _promoted_without_drift(state: State, rollout: Rollout, after: Rollout, now_s: float) -> Rollout:
    """What is next, but for a promotion that was to be proven and that drift is in the way of: that is held, until the deadline
    or that drift is over."""
    step = rollout.current
    if step is None or step.bake_s == 0:
        return after
    if after.state is RolloutState.PROMOTED:
        why = held_by_drift(state, rollout)
        return replace(rollout, held=True, reason=why) if why else after
    early = now_s - rollout.step_started_s < rollout.plan.deadline_s
    if after == rollout and rollout.held and early and not held_by_drift(state, rollout):
        return replace(rollout, held=False, reason="")
    return after


def settle(state: State, rollout: Rollout, now_s: float) -> State:
    """The state with the rollout, and what its end means for the model: who is stable, who stays warm and until when."""
    state = state.with_rollout(rollout)
    model: Model = state.models[rollout.model]
    if rollout.ended:
        state = state.with_newest_rollouts(model.name, (model.plan or rollout.plan).keep_ended)
    if rollout.state is RolloutState.PROMOTED:
        warm = {number: until for number, until in model.warm.items() if number != rollout.candidate}
        if model.stable is not None and model.stable != rollout.candidate:
            warm[model.stable] = now_s + rollout.plan.keep_warm_s
        # A person may have scaled the former stable version since the candidate was deployed: that number is the model's.
        scale_to = model.replicas if by_hand(model) and model.scale_to is None else model.scale_to
        return state.with_model(replace(model, stable=rollout.candidate, warm=warm, scale_to=scale_to))
    if rollout.ended:
        # Out of the table now; its app goes once every scorer has had the time to see that.
        until_s = max(model.warm.get(rollout.candidate, now_s), now_s)
        return state.with_model(replace(model, warm={**model.warm, rollout.candidate: until_s}))
    return state


def transition(before: Rollout, after: Rollout, judged: tuple[Judged, ...], now_s: float, actor: str = "") -> AuditEvent:
    """The audit of one transition: who or which check, when, from which evidence."""
    failed = next((check.name for check in judged if check.verdict is Verdict.FAILED), None)
    by = actor or (f"check {failed}" if failed is not None and after.state is RolloutState.ROLLED_BACK else CONTROLLER)
    detail: dict[str, object] = {"from": before.state.value, "stage": before.stage, "candidate": after.candidate}
    if after.reason:
        detail["reason"] = after.reason
    if judged:
        detail["checks"] = [check.evidence for check in judged]
    held = after.held and (not before.held or before.reason != after.reason)
    event = "held" if held else after.state.value
    return AuditEvent(now_s, after.model, after.id, event, by, detail)
