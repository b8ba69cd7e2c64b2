"""Commands on versions: making an artifact the next one, finding one, forgetting one."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from cluster.access.callers import Role
from cluster.commands.command import Command, CommandEntry, CommandResult, Context, Message, Nothing
from cluster.commands.known import being_removed, known_model, known_version, new_model, staying_model
from cluster.commands.rights import of_model
from cluster.errors import Conflict, NotFound
from cluster.fleet.outputs import OutputLimit, misfit
from cluster.signature import Signature
from cluster.state import AuditEvent, Model, State
from cluster.versions import BuiltQuality, Version, VersionId, check_name
from cluster.watch.payloads import Payloads

BROUGHT_MOST = 1000  # remembered, of what starts have brought
IDLE = "idle"


class RegisterVersion(Command):
    """Makes a packaged artifact the next version of its model. The same digest again returns the version it has.

    One that is `standing` is brought at each start: it is registered once, and not again where somebody has removed it since.
    """

    model: str
    artifact_uri: str
    digest: str
    engine: str
    signature: Signature
    quality: BuiltQuality | None = None
    standing: bool = False


class VersionView(Message):
    """One version as commands show it. `role` is stable, candidate, warm or idle."""

    model: str
    version: int
    artifact_uri: str
    digest: str
    engine: str
    signature: Signature
    created_s: float
    role: str = IDLE


class ResolvedVersion(VersionView):
    """A version to score with, what of its model's traffic is kept, and how much of its outputs leaves."""

    payloads: Payloads | None = None
    outputs: dict[str, OutputLimit] = Field(default_factory=dict)


class Resolve(Command):
    """Asks for one version; without a number, for the stable one."""

    model: str
    version: int | None = None


def version_roles(state: State, model: Model) -> dict[int, str]:
    """What the model's versions are to it now: stable, candidate or warm. All others are idle."""
    roles = dict.fromkeys(model.warm, "warm")
    rollout = state.active(model.name)
    if rollout is not None:
        roles[rollout.candidate] = "candidate"
    if model.stable is not None:
        roles[model.stable] = "stable"
    return roles


def version_role(state: State, model: Model, number: int) -> str:
    """What a version is to its model now: stable, candidate, warm or idle."""
    return version_roles(state, model).get(number, IDLE)


def version_view(state: State, version: Version) -> VersionView:
    """One version."""
    return view_as(version, version_role(state, state.models[version.id.model], version.id.number))


def view_as(version: Version, role: str) -> VersionView:
    """One version whose role is known."""
    return VersionView(
        model=version.id.model,
        version=version.id.number,
        artifact_uri=version.artifact_uri,
        digest=version.digest,
        engine=version.engine,
        signature=version.signature,
        created_s=version.created_s,
        role=role,
    )


def _register(at: Context, request: RegisterVersion) -> CommandResult:
    check_name(request.model, what="model")
    model = at.state.models.get(request.model) or new_model(at, request.model)
    if model.removal is not None:
        raise being_removed(f"model {model.name}")
    for known in at.state.versions_of(request.model):
        if known.digest == request.digest:
            return CommandResult(_brought(at.state, request), version_view(at.state, known))
    if request.standing and request.digest in at.state.brought:
        what = "it was registered here at an earlier start, and somebody has removed it since"
        raise NotFound(what, where=f"model {request.model}", remedy="leave it out, or register it by hand")
    if model.serving is not None and (why := misfit(model.serving.outputs, request.signature)):
        raise Conflict(why, where=f"model {request.model}: serving.outputs", remedy="name the outputs that the version has")
    version = Version(
        id=VersionId(request.model, model.last_number + 1),
        artifact_uri=request.artifact_uri,
        digest=request.digest,
        engine=request.engine,
        signature=request.signature,
        quality=request.quality,
        created_s=at.now_s,
    )
    state = replace(at.state, versions=at.state.versions.adding(version))
    state = _brought(state, request)
    state = state.with_model(replace(model, last_number=version.id.number))
    event = AuditEvent(
        at.now_s, request.model, None, "registered", at.actor, {"version": version.id.number, "digest": version.digest}
    )
    return CommandResult(state, version_view(state, version), (event,))


def _brought(state: State, request: RegisterVersion) -> State:
    if not request.standing or request.digest in state.brought:
        return state
    return replace(state, brought=(*state.brought, request.digest)[-BROUGHT_MOST:])


def _resolve(at: Context, request: Resolve) -> CommandResult:
    model = known_model(at, request.model)
    number = request.version if request.version is not None else model.stable
    if number is None:
        raise NotFound(
            "it has no stable version yet",
            where=f"model {model.name}",
            remedy="build a version, apply the model and wait until `headrace status` shows it ready",
        )
    view = version_view(at.state, known_version(at.state, model.name, number))
    outputs = model.serving.outputs if model.serving is not None else {}
    return CommandResult(at.state, ResolvedVersion(**dict(view), payloads=model.payloads, outputs=outputs))


def _remove(at: Context, request: Resolve) -> CommandResult:
    model = staying_model(at, request.model)
    if request.version is None:
        raise Conflict("which version to remove was not said", where=f"model {model.name}", remedy="name the version")
    version = known_version(at.state, model.name, request.version)
    role = version_role(at.state, model, request.version)
    if role != IDLE:
        raise Conflict(f"it is {role}", where=str(version.id), remedy="move the model to another version first")
    if version.id.app in at.apps:
        raise Conflict("its replicas are still going away", where=str(version.id), remedy="try again in a few seconds")
    event = AuditEvent(at.now_s, model.name, None, "removed", at.actor, {"version": request.version})
    return CommandResult(replace(at.state, versions=at.state.versions.without(version.id)), Nothing(), (event,))


REGISTER = CommandEntry(
    "version.register",
    RegisterVersion,
    VersionView,
    _register,
    "Makes an artifact the next version of its model",
    of_model(Role.DEPLOY),
)
RESOLVE = CommandEntry(
    "version.resolve",
    Resolve,
    ResolvedVersion,
    _resolve,
    "A version; without a number, stable",
    of_model(Role.VIEW, Role.DEPLOY),
    looks=True,
)
REMOVE = CommandEntry("version.remove", Resolve, Nothing, _remove, "Forgets a version that nothing uses", of_model(Role.DEPLOY))
COMMANDS = (REGISTER, RESOLVE, REMOVE)
