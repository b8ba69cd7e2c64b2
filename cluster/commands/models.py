"""Commands on a model as a whole, and how it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from pydantic import Field

from cluster.access.callers import Role
from cluster.commands.command import Command, CommandEntry, CommandResult, Context, Message, ModelName, Nothing
from cluster.commands.known import has_changed, known_model, staying_model
from cluster.commands.rights import of_model
from cluster.commands.rollouts import RolloutView, rollout_view
from cluster.commands.versions import IDLE, VersionView, version_roles, view_as
from cluster.commands.watch.quality import QualityView, quality_view
from cluster.drift.alarms import of_model as alarms_of
from cluster.errors import Conflict, in_words
from cluster.fleet.desired import RETIRE_GRACE_S
from cluster.fleet.retry import Retry
from cluster.fleet.serving import ScalingMode, Serving
from cluster.ports import AppState, AppStatus
from cluster.removal import dependents
from cluster.rollout.plan import Plan
from cluster.state import AuditEvent, Model, Removal, State
from cluster.versions import VersionId
from cluster.watch.sums import MetricTotals


class ScaleModel(Command):
    """Sets the replicas of the versions of a model that is scaled by hand. With `seen`, only where so many are wanted until then:
    else Conflict."""

    model: str
    replicas: int = Field(ge=0)
    seen: int | None = Field(default=None, ge=0, description="the replicas that were wanted when it was decided")


class DeleteModel(ModelName):
    """Removes a model: its rollout ends, its replicas drain, and nothing of it is remembered but its audit."""

    artifacts: bool = Field(default=False, description="delete its versions' files too")


class AppView(Message):
    """A version's replicas as seen. One that failed to start is tried again at `next_try_s`, in Unix time; None where it is not,
    or is being tried."""

    app: str
    status: str
    replicas: int
    target_replicas: int
    message: str
    next_try_s: float | None = None


class ModelView(Message):
    """One model with its versions, replicas and rollout.

    `fault` is a mistake of ours that stops it, in words. `removing` is what its removal waits for; empty where it stays.
    `drift_alarms` is how many of its features no longer look like their profile, `quality` what late labels say of it, where its
    document has a section for them.
    """

    name: str
    stable: int | None
    candidate: int | None
    serving: Serving | None
    plan: Plan | None
    versions: tuple[VersionView, ...]
    apps: tuple[AppView, ...]
    rollout: RolloutView | None
    fault: str = ""
    project: str = ""
    removing: str = ""
    drift_alarms: int = 0
    quality: QualityView | None = None


def app_view(name: str, app: AppState | None, retry: Retry | None, now_s: float) -> AppView | None:
    """A version's app as seen, and when it is tried again; None where there is nothing to tell of it."""
    if app is None and retry is None:
        return None
    seen = app or AppState(name, AppStatus.FAILED, 0, 0)
    message = seen.message
    if retry is not None:
        message = "; ".join(part for part in (message or retry.reason, tried_again(retry, now_s)) if part)
    return AppView(
        app=name,
        status=seen.status.value,
        replicas=seen.replicas,
        target_replicas=seen.target_replicas,
        message=message,
        next_try_s=retry.next_s if retry is not None else None,
    )


def tried_again(retry: Retry, now_s: float) -> str:
    """How often it failed, and when it is tried next."""
    failed = f"failed {retry.failures} times" if retry.failures > 1 else "failed once"
    if retry.next_s is None:
        return f"{failed}, is being tried again"
    return f"{failed}, is tried again in {max(retry.next_s - now_s, 0):.0f} s"


def model_views(at: Context) -> tuple[ModelView, ...]:
    """All that the caller may view, by name."""
    alarmed = Counter(alarm.version.model for alarm in at.state.alarms.values())
    models = (at.state.models[name] for name in sorted(at.state.models) if at.caller.may(Role.VIEW, name))
    return tuple(_view(at.state, model, at.apps, at.now_s, at.faults, alarmed[model.name]) for model in models)


def model_view(state: State, model: Model, apps: Mapping[str, AppState], now_s: float, faults: Mapping[str, str]) -> ModelView:
    """One model with everything about it; with as much as its name where a mistake of ours is in the way of the rest."""
    return _view(state, model, apps, now_s, faults, len(alarms_of(state.alarms, model.name)))


def _view(
    state: State, model: Model, apps: Mapping[str, AppState], now_s: float, faults: Mapping[str, str], alarmed: int
) -> ModelView:
    try:
        return _whole_view(state, model, apps, now_s, faults.get(model.name, ""), alarmed)
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


def _whole_view(state: State, model: Model, apps: Mapping[str, AppState], now_s: float, fault: str, alarmed: int) -> ModelView:
    versions, roles = state.versions_of(model.name), version_roles(state, model)
    rollout, active = state.rollout_of(model.name), state.active(model.name)
    names = {version.id.number: version.id.app for version in versions}
    seen = (app_view(name, apps.get(name), model.retries.get(number), now_s) for number, name in names.items())
    return ModelView(
        name=model.name,
        stable=model.stable,
        candidate=active.candidate if active is not None else None,
        serving=model.serving,
        plan=model.plan,
        versions=tuple(view_as(version, roles.get(version.id.number, IDLE)) for version in versions),
        apps=tuple(app for app in seen if app is not None),
        rollout=rollout_view(state, rollout) if rollout is not None else None,
        fault=fault,
        project=model.project,
        removing=_removing(state, model, apps, now_s),
        drift_alarms=alarmed,
        quality=quality_view(state, model, MetricTotals()) if model.labels is not None else None,
    )


def _show(at: Context, request: ModelName) -> CommandResult:
    return CommandResult(at.state, model_view(at.state, known_model(at, request.model), at.apps, at.now_s, at.faults))


def _removing(state: State, model: Model, apps: Mapping[str, AppState], now_s: float) -> str:
    removal = model.removal
    if removal is None:
        return ""
    if removal.unrouted_s is None:
        users = ", ".join(f"{feed.spec.kind} {feed.spec.name}" for feed in dependents(state, model.name))
        return f"waits for {users or 'the next look'}"
    left = [version.id.app for version in state.versions_of(model.name) if version.id.app in apps]
    if left:
        wait_s = removal.unrouted_s + RETIRE_GRACE_S - now_s
        return f"its replicas are going away: {', '.join(left)}" if wait_s <= 0 else f"its replicas go in {wait_s:.0f} s"
    if removal.retry is None:
        return "its artifacts are being deleted"
    return f"its artifacts can't be deleted: {removal.retry.reason}; {tried_again(removal.retry, now_s)}"


def begin_removal(state: State, model: Model, actor: str, *, artifacts: bool) -> State:
    """The state with the model on its way out. Raises Conflict where something that stays scores with it."""
    users = [feed.spec for feed in dependents(state, model.name) if feed.removal is None]
    if users:
        raise Conflict(
            f"{', '.join(f'{one.kind} {one.name}' for one in users)} {'score' if len(users) > 1 else 'scores'} with it",
            where=f"model {model.name}",
            remedy=f"first `headrace delete {users[0].kind} {users[0].name}`, or apply it with another model",
        )
    known = model.removal
    if known is not None and (known.artifacts or not artifacts):
        return state
    removal = Removal(actor, artifacts) if known is None else replace(known, artifacts=True)
    return state.with_model(replace(model, removal=removal))


def _delete(at: Context, request: DeleteModel) -> CommandResult:
    state = begin_removal(at.state, known_model(at, request.model), at.actor, artifacts=request.artifacts)
    return CommandResult(state, model_view(state, state.models[request.model], at.apps, at.now_s, at.faults))


def _scale(at: Context, request: ScaleModel) -> CommandResult:
    model = staying_model(at, request.model)
    if model.serving is None or model.serving.scaling.mode is not ScalingMode.MANUAL:
        raise Conflict(
            "it is not scaled by hand", where=f"model {model.name}", remedy="apply it with `serving: {scaling: manual}`"
        )
    wanted = _wanted_replicas(at, model)
    if request.seen not in (None, wanted):
        what = f"it has changed: {wanted} replicas are wanted now, and {request.seen} were when it was seen"
        raise has_changed(what, f"model {model.name}")
    changed = replace(model, scale_to=request.replicas) if model.stable is not None else replace(model, replicas=request.replicas)
    event = AuditEvent(at.now_s, model.name, None, "scaled", at.actor, {"replicas": request.replicas})
    return CommandResult(at.state.with_model(changed), Nothing(), (event,))


def _wanted_replicas(at: Context, model: Model) -> int | None:
    """By hand: what was asked for last, else what its stable version is seen to have; None where nobody knows."""
    app = at.apps.get(VersionId(model.name, model.stable).app) if model.stable is not None else None
    if model.scale_to is not None:
        return model.scale_to
    return app.target_replicas if app is not None else model.replicas


SHOW = CommandEntry(
    "model.show",
    ModelName,
    ModelView,
    _show,
    "One model with its versions, replicas and rollout",
    of_model(Role.VIEW),
    looks=True,
)
SCALE = CommandEntry(
    "model.scale", ScaleModel, Nothing, _scale, "Sets the replicas of a model that is scaled by hand", of_model(Role.OPERATE)
)
DELETE = CommandEntry(
    "model.delete", DeleteModel, ModelView, _delete, "Removes a model: drains it, then forgets it", of_model(Role.DEPLOY)
)
COMMANDS = (SHOW, SCALE, DELETE)
