"""Everything that matters first, for a page that is open all day: its cost grows with what runs, not with what was ever built."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from cluster.access.callers import Role
from cluster.commands.command import CommandEntry, CommandResult, Context, Nothing
from cluster.commands.feeds import feed_view, fire_view
from cluster.commands.models import model_view
from cluster.commands.rights import anybodys
from cluster.commands.rollouts import CheckView, rollout_view
from cluster.commands.versions import version_role
from cluster.commands.watch.glances import AppGlance, FeedGlance, Glance, ModelGlance, RolloutGlance, StepGlance, WorseGlance
from cluster.commands.watch.wrong import wrong_with_feed, wrong_with_model
from cluster.drift.alarms import DriftAlarm
from cluster.errors import in_words
from cluster.fleet.serving import ScalingMode
from cluster.ports import AppState, AppStatus, FeedKind
from cluster.rollout.record import Rollout, RolloutState
from cluster.state import Feed, Model, State
from cluster.versions import VersionId
from cluster.watch.catalogue import BATCH_ROWS, STREAM_OLDEST
from cluster.watch.history import HistorySubject

_Figures = Mapping[tuple[str, str], dict[str, float]]


def _glance(at: Context, _: Nothing) -> CommandResult:
    figures = _figures(at)
    apps: defaultdict[str, list[AppState]] = defaultdict(list)
    for app in at.apps.values():
        version = VersionId.of_app(app.name)
        if version is not None:
            apps[version.model].append(app)
    alarms: defaultdict[str, list[DriftAlarm]] = defaultdict(list)
    for alarm in at.state.alarms.values():
        alarms[alarm.version.model].append(alarm)
    models = [
        model_glance(at, model, apps[name], alarms[name], figures.get((HistorySubject.MODEL, name), {}))
        for name, model in sorted(at.state.models.items())
        if at.caller.may(Role.VIEW, name)
    ]
    feeds = [
        feed_glance(at, feed, figures.get((feed.spec.kind, feed.spec.name), {}))
        for _, feed in sorted(at.state.feeds.items())
        if at.caller.may(Role.VIEW, feed.spec.model)
    ]
    return CommandResult(at.state, Glance(table=at.state.table, tick_s=at.tick_s, models=tuple(models), feeds=tuple(feeds)))


def _figures(at: Context) -> _Figures:
    """By (subject, name): the last ten seconds of its history, and what only gauges and sums tell."""
    found: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    points = at.history()
    for figure, value in points[-1].figures.items() if points else ():
        found[figure.subject, figure.name][figure.figure] = value
    totals = at.totals()
    for series, value in totals.gauges.items():
        if series.metric == STREAM_OLDEST.name:
            found[FeedKind.STREAM, series.named["stream"]]["oldest_s"] = value
    for series, value in totals.counters.items():
        if series.metric == BATCH_ROWS.name:
            found[FeedKind.BATCH, series.named["batch"]][f"rows_{series.named['outcome']}"] = value
    return found


def model_glance(
    at: Context, model: Model, apps: Sequence[AppState], alarms: Sequence[DriftAlarm], figures: dict[str, float]
) -> ModelGlance:
    """One model; with as much as its name where a mistake of ours is in the way of the rest."""
    fault, rollout, seen = at.faults.get(model.name, ""), None, tuple[AppGlance, ...]()
    removing = ""
    try:
        rollout = _rollout(at.state, model, apps, at.now_s)
        seen = tuple(_apps(at.state, model, apps))
        if model.removal is not None:
            removing = model_view(at.state, model, at.apps, at.now_s, at.faults).removing
    except Exception as error:  # noqa: BLE001 - what stops one model must not hide all others, nor itself
        fault = fault or in_words(error)
    serving = model.serving
    glance = ModelGlance(
        name=model.name,
        project=model.project,
        stable=model.stable,
        newest=at.state.versions.newest(model.name),
        versions=len(at.state.versions_of(model.name)),
        apps=seen,
        rollout=rollout,
        figures=figures,
        removing=removing,
        alarmed=len(alarms),
        worse=tuple(_worse(model)),
        by_hand=serving is not None and serving.scaling.mode is ScalingMode.MANUAL,
    )
    return glance.model_copy(update={"wrong": wrong_with_model(glance, fault, alarms, at.now_s)})


def _worse(model: Model) -> Iterator[WorseGlance]:
    if model.labels is None:
        return
    told = model.labels.loss.told
    for number, seen in sorted(model.quality.versions.items()):
        if (alarm := seen.alarm) is not None:
            live = f"{told(alarm.loss)} over {alarm.labelled:,} labels"
            words = f"{live}, {told(alarm.built)} at build, {told(alarm.limit)} allowed"
            yield WorseGlance(version=number, words=words, since_s=alarm.at_s)


def _apps(state: State, model: Model, apps: Sequence[AppState]) -> list[AppGlance]:
    """What is seen of its versions, and those that failed and are not there now; by version."""
    seen = {version.number: app for app in apps if (version := VersionId.of_app(app.name)) is not None}
    told = []
    for number in sorted(seen.keys() | model.retries.keys()):
        retry = model.retries.get(number)
        app = seen.get(number) or AppState(VersionId(model.name, number).app, AppStatus.FAILED, 0, 0)
        told.append(
            AppGlance(
                version=number,
                role=version_role(state, model, number),
                status=app.status.value,
                replicas=app.replicas,
                target_replicas=app.target_replicas,
                message=app.message or (retry.reason if retry is not None else ""),
                next_try_s=retry.next_s if retry is not None else None,
            )
        )
    return told


def _rollout(state: State, model: Model, apps: Sequence[AppState], now_s: float) -> RolloutGlance | None:
    rollout = state.rollout_of(model.name)
    if rollout is None:
        return None
    plan = rollout.plan
    began_s = None if rollout.ended or rollout.state is RolloutState.PAUSED else rollout.step_started_s
    bound_s = began_s if began_s is None or rollout.wait is None else rollout.wait.since_s  # a wait is bounded by itself
    view, current = rollout_view(state, rollout), rollout.current
    bake_ends_s = began_s + current.bake_s if began_s is not None and current is not None else None
    return RolloutGlance(
        rollout=view,
        steps=tuple(StepGlance(weight=step.weight, shadow=step.shadow, bake_s=step.bake_s) for step in plan.steps),
        held=rollout.held,
        waits_for="" if rollout.ended else _waits_for(rollout, view.checks, apps, baked=(bake_ends_s or 0.0) <= now_s),
        bake_ends_s=bake_ends_s,
        deadline_s=bound_s + plan.deadline_s if bound_s is not None else None,
        on_deadline=plan.on_deadline.value,
    )


def _waits_for(rollout: Rollout, checks: Sequence[CheckView], apps: Sequence[AppState], *, baked: bool) -> str:
    if rollout.state is RolloutState.PAUSED:
        return "a person: it is paused"
    if rollout.wait is not None:
        return f"what its candidate takes to start: {rollout.wait.why}"
    if rollout.held:
        return "a person: its deadline has passed, and it is neither proven good nor bad"
    app = next((one for one in apps if one.name == VersionId(rollout.model, rollout.candidate).app), None)
    if rollout.current is None:
        if app is None:
            return "the candidate's replicas to be started"
        if app.status is AppStatus.READY and rollout.awaits_preflight:
            return "its preflight: recorded requests are put to the candidate"
        return f"the candidate's replicas: {app.replicas} of {app.target_replicas} are ready"
    waiting = [check.name.replace("_", " ") for check in checks if check.verdict == "waiting"]
    parts = [] if baked else ["the step's time to be over"]
    if waiting:
        parts.append(f"proof from {', '.join(waiting)}")
    if app is None or app.status is not AppStatus.READY:
        parts.append("the candidate's replicas")
    return " and ".join(parts) or "the controller's next look"


def feed_glance(at: Context, feed: Feed, figures: dict[str, float]) -> FeedGlance:
    """One stream or batch."""
    view, retry = feed_view(feed, at.feeds, at.now_s, {}), feed.retry
    running = at.feeds.get(feed.spec.name) if feed.spec.kind is FeedKind.STREAM else None
    message = view.message
    if retry is not None:  # without how long it still waits: the page counts that down
        message = running.app.message if running is not None and running.app.message else retry.reason
    schedule = view.schedule
    glance = FeedGlance(
        kind=view.kind,
        name=view.name,
        model=view.model,
        project=view.project,
        wanted=view.wanted,
        status=view.status,
        replicas=view.replicas,
        message=message,
        figures=figures,
        removing=view.removing,
        next_try_s=retry.next_s if retry is not None else None,
        cron=schedule.cron if schedule is not None else "",
        timezone=schedule.timezone if schedule is not None else "",
        next_s=next(iter(schedule.next_s), None) if schedule is not None else None,
        last=fire_view(view.name, feed.fires[-1]) if feed.fires else None,
    )
    return glance.model_copy(update={"wrong": wrong_with_feed(glance, at.faults.get(feed.spec.app, ""))})


GLANCE = CommandEntry(
    "glance.show",
    Nothing,
    Glance,
    _glance,
    "What the console shows: all that runs, and what is wrong",
    anybodys,
    looks=True,
)
COMMANDS = (GLANCE,)
