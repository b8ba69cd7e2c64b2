"""Which versions and feeds should run, and the actions that bring the world there. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from cluster.fleet.retry import is_due, may_start
from cluster.fleet.serving import ScalingMode, Serving
from cluster.ports import AppState, AppStatus, FeedKind, FeedSpec, FeedState
from cluster.rollout.record import RolloutState
from cluster.schedule.jobs import RunCommand, StopJob, SubmitJob, SubmitPreflight
from cluster.state import Model, State, Wanted, feed_key
from cluster.versions import Version, VersionId

RETIRE_GRACE_S = 10.0  # from leaving the table to retiring: scorers' long polls and requests under way end well within it


@dataclass(frozen=True, slots=True)
class Deploy:
    """Start a version's replicas."""

    version: Version
    serving: Serving
    replicas: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Drain and remove a version's app."""

    app: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Set the replicas of an app scaled by hand."""

    app: str
    model: str
    replicas: int


@dataclass(frozen=True, slots=True)
class StartFeed:
    """Start a stream, or move it to its new document."""

    feed: FeedSpec


@dataclass(frozen=True, slots=True)
class StopFeed:
    """Drain and stop a stream."""

    name: str


@dataclass(frozen=True, slots=True)
class RemoveArtifact:
    """Delete the files of a version of a model that is being removed."""

    model: str
    uri: str


Action = Deploy | Retire | Scale | StartFeed | StopFeed | SubmitJob | SubmitPreflight | RunCommand | StopJob | RemoveArtifact


def concerns(action: Action) -> str | None:
    """The model, or the key of the feed, that an action is for; None where it does not say."""
    match action:
        case Deploy(version):
            return version.id.model
        case Retire(app):
            version_id = VersionId.of_app(app)
            return version_id.model if version_id is not None else None
        case Scale(_, model) | RemoveArtifact(model):
            return model
        case StartFeed(feed):
            return feed.app
        case StopFeed(name):
            return feed_key(FeedKind.STREAM, name)
        case SubmitJob(_, batch):
            return feed_key(FeedKind.BATCH, batch)
        case SubmitPreflight(_, model) | RunCommand(_, model):
            return model
        case StopJob():
            return None


def needed(state: State, model: Model, now_s: float, *, grace_s: float = RETIRE_GRACE_S) -> set[int]:
    """The versions of a model whose replicas should exist: stable, candidate, and those warm or just out of the table."""
    numbers = {number for number, until_s in model.warm.items() if until_s + grace_s > now_s}
    if model.stable is not None:
        numbers.add(model.stable)
    rollout = state.active(model.name)
    if rollout is not None:
        numbers.add(rollout.candidate)
    return numbers


def running_versions(apps: Mapping[str, AppState]) -> dict[str, set[int]]:
    """By model, the versions that have an app."""
    found: dict[str, set[int]] = {}
    for app in apps:
        version = VersionId.of_app(app)
        if version is not None:
            found.setdefault(version.model, set()).add(version.number)
    return found


def fleet_actions(
    state: State, model: Model, apps: Mapping[str, AppState], running: Collection[int], now_s: float
) -> list[Action]:
    """Deploys what is missing of a model, scales what was asked for, retires what is no longer needed. `running` are its versions
    that have an app. Apps of versions that it does not know are left alone."""
    actions: list[Action] = []
    if model.serving is None:
        return actions
    wanted, stays = needed(state, model, now_s, grace_s=0.0), needed(state, model, now_s)
    for number in sorted(stays.union(running)):
        version = state.versions.get(VersionId(model.name, number))
        if version is None:
            continue
        app = apps.get(version.id.app)
        if _starts_over(state, version, app, now_s):
            actions.append(Retire(version.id.app))
        elif number in stays:
            # What has left the table and is gone, after the loss of a whole cluster, need not come back.
            if app is None and number in wanted and may_start(model.retries.get(number)):
                actions.append(Deploy(version, model.serving, initial_replicas(model, model.serving)))
            elif app is not None and model.scale_to is not None and app.target_replicas != model.scale_to and by_hand(model):
                actions.append(Scale(app.name, model.name, model.scale_to))
        elif app is not None and app.status is not AppStatus.STOPPING:
            actions.append(Retire(app.name))
    return actions


def _starts_over(state: State, version: Version, app: AppState | None, now_s: float) -> bool:
    """Whether what is left of a failed try has to go: before the next try of the version, or where no one needs it."""
    if app is None or app.status is not AppStatus.FAILED:
        return False
    number, model, rollout = version.id.number, state.models[version.id.model], state.active(version.id.model)
    if number in model.retries:
        return is_due(model.retries[number], now_s)
    if rollout is not None and rollout.candidate == number:
        return rollout.state is RolloutState.PENDING
    return model.stable != number


def initial_replicas(model: Model, serving: Serving) -> int:
    """How many replicas a deployment begins with."""
    if serving.scaling.mode is ScalingMode.AUTO:
        return serving.scaling.min
    for known in (model.scale_to, model.replicas):
        if known is not None:
            return known
    return serving.scaling.replicas


def forget_cold(state: State, name: str, now_s: float) -> State:
    """Drops the versions that are no longer warm, not even for the grace."""
    model = state.models[name]
    warm = {number: until_s for number, until_s in model.warm.items() if until_s + RETIRE_GRACE_S > now_s}
    return state if len(warm) == len(model.warm) else state.with_model(replace(model, warm=warm))


def learn_scale(state: State, name: str, apps: Mapping[str, AppState], *, gave_up: bool) -> State:
    """Remembers how many replicas a person wants of a model scaled by hand, whether told here or through Ray's own interface."""
    model = state.models[name]
    if not by_hand(model) or model.stable is None or gave_up:
        return state if model.scale_to is None else state.with_model(replace(model, scale_to=None))
    app = apps.get(VersionId(name, model.stable).app)
    none_wanted = model.serving is not None and initial_replicas(model, model.serving) == 0
    if none_wanted and model.scale_to is None and (app is None or model.replicas is None):
        # No app begins with 0 replicas: it is scaled down once it is there.
        return state.with_model(replace(model, scale_to=0))
    if app is None or app.status not in (AppStatus.READY, AppStatus.UNHEALTHY):
        return state
    if model.scale_to is not None and app.target_replicas != model.scale_to:
        return state
    if (model.replicas, model.scale_to) == (app.target_replicas, None):
        return state
    return state.with_model(replace(model, replicas=app.target_replicas, scale_to=None))


def feed_actions(state: State, key: str, seen: Mapping[str, FeedState] | None, now_s: float) -> list[Action]:
    """Starts or stops a stream; nothing where what runs could not be asked. A stream starts once its model has a stable version;
    batches run by their schedules."""
    feed = state.feeds[key]
    if feed.spec.kind is not FeedKind.STREAM or seen is None:
        return []
    running = seen.get(feed.spec.name)
    if feed.wanted is Wanted.PAUSED:
        return [StopFeed(feed.spec.name)] if running is not None and running.app.status is not AppStatus.STOPPING else []
    if running is not None and running.digest == feed.spec.digest:
        failed = running.app.status is AppStatus.FAILED
        return [StopFeed(feed.spec.name)] if failed and is_due(feed.retry, now_s) else []
    if state.models[feed.spec.model].stable is not None and may_start(feed.retry):
        return [StartFeed(feed.spec)]
    return []


def by_hand(model: Model) -> bool:
    """Whether a person decides how many replicas the model has."""
    return model.serving is not None and model.serving.scaling.mode is ScalingMode.MANUAL
