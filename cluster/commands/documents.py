"""Taking a project's documents: all of them, or none. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cluster.access.callers import Role
from cluster.access.policy import Access
from cluster.commands import feeds, models
from cluster.commands.command import Command, CommandEntry, CommandResult, Context, Message
from cluster.commands.differences import FieldChange, access_fields, differences, feed_fields, model_fields
from cluster.commands.known import being_removed, new_model
from cluster.commands.rights import AdminAsked, Asks, RoleAsked
from cluster.drift.section import Drift
from cluster.errors import BadInput, Conflict
from cluster.fleet.outputs import misfit
from cluster.fleet.retry import due_at
from cluster.fleet.serving import AskedServing, ScalingMode, Serving
from cluster.ports import FeedKind, FeedSpec
from cluster.quality.section import LiveLabels, check_alike
from cluster.rollout.checks.labels import require_output
from cluster.rollout.plan import Plan
from cluster.schedule.cron import AskedSchedule
from cluster.state import AuditEvent, Feed, Model, State, feed_key
from cluster.versions import VersionId, check_name
from cluster.watch.payloads import Payloads

ACCESS = "access"  # there is one, so its kind is its name
STANDS = "the file is as it was applied before, and what somebody applied since stays; `headrace apply FILE` goes back to it"
Did = Literal["created", "updated", "unchanged", "removed"]


class ModelDocument(Message):
    """A Model as applied (its build section stays with the builder)."""

    name: str
    serving: AskedServing = Serving()
    rollout: Plan = Plan()
    payloads: Payloads | None = None
    drift: Drift | None = None
    labels: LiveLabels | None = None

    @model_validator(mode="after")
    def _labels_alike(self) -> Self:
        check_alike(self.labels, self.rollout.checks.labels)
        return self


class FeedDocument(Message):
    """A Stream or Batch as applied; `spec` is what only its feed understands. Only a Batch has a `schedule`."""

    kind: Literal["stream", "batch"]
    name: str
    model: str
    spec: dict[str, Any]
    schedule: AskedSchedule | None = None


class Apply(Command):
    """All documents of a project at once: all are taken, or none. `access` says who may do what from then on; without one
    that stays as it is.

    A `standing` Access document is one that is given at each start: it counts where it is another than the last such one, so that
    what somebody applied since stays. With a `project` what is in them belongs to it from then on; `prune` removes what belongs
    to it and is in none of them. A `dry_run` says what would change, and changes nothing.
    """

    models: tuple[ModelDocument, ...] = ()
    feeds: tuple[FeedDocument, ...] = ()
    access: Access | None = None
    standing: bool = False
    project: str = Field(default="", max_length=63)
    prune: bool = False
    dry_run: bool = False


class Change(Message):
    """What `apply` did to one document, or to what has no document any more. `note` says what it does not do yet."""

    kind: str
    name: str
    action: Did
    note: str = ""
    fields: tuple[FieldChange, ...] = ()


class Applied(Message):
    """The changes, in the documents' order."""

    changes: tuple[Change, ...]


def _apply(at: Context, request: Apply) -> CommandResult:
    _check(request)
    state, changes = at.state, list[Change]()
    for document in request.models:
        state, change = _apply_model(at, state, document, request.project)
        changes.append(change)
    for feed in request.feeds:
        state, change = _apply_feed(at, state, feed, request.project)
        changes.append(change)
    if request.access is not None:
        state, change = _apply_access(state, request.access, standing=request.standing)
        changes.append(change)
    if request.prune:
        state, gone = _prune(at, state, request)
        changes += gone
    answer = Applied(changes=tuple(changes))
    if request.dry_run:
        return CommandResult(at.state, answer)
    return CommandResult(state, answer, tuple(_event(at, state, change) for change in changes if change.action != "unchanged"))


def _event(at: Context, state: State, change: Change) -> AuditEvent:
    feed = state.feeds.get(feed_key(change.kind, change.name))
    detail: dict[str, Any] = {"kind": change.kind, "name": change.name, "action": change.action}
    if change.kind == ACCESS:
        detail["fields"] = [field.model_dump(mode="json") for field in change.fields]
        model = ""
    else:
        model = feed.spec.model if feed is not None else change.name
    return AuditEvent(at.now_s, model, None, "applied", at.actor, detail)


def _asks(state: State, request: Apply) -> Asks:
    """To deploy each model that is changed, or that something changed scores with, now or then. Models that the request does not
    name itself are not named to who may not see them either."""
    named = [document.name for document in request.models] + [feed.model for feed in request.feeds]
    asks = {name: RoleAsked((Role.DEPLOY,), name) for name in named}
    for document in request.feeds:
        known = state.feeds.get(feed_key(document.kind, document.name))
        if known is not None:
            taken = f"the {document.kind} {document.name!r} is not yours to change: choose another name"
            asks.setdefault(known.spec.model, RoleAsked((Role.DEPLOY,), known.spec.model, taken))
    if request.prune:
        pruned = [model.name for model in state.models.values() if model.project == request.project]
        pruned += [feed.spec.model for feed in state.feeds.values() if feed.project == request.project]
        for name in pruned:
            not_all = f"not all of project {request.project!r} is yours to remove"
            asks.setdefault(name, RoleAsked((Role.DEPLOY,), name, not_all))
    admin = request.access is not None or any(_runs_something_new(state, document) for document in request.models)
    return (*asks.values(), AdminAsked()) if admin else tuple(asks.values())


def _runs_something_new(state: State, document: ModelDocument) -> bool:
    """Whether it has the cluster run a command that no admin has applied yet."""
    known = state.models.get(document.name)
    before = known.drift.command if known is not None and known.drift is not None else ()
    return document.drift is not None and document.drift.command not in ((), before)


def _apply_access(state: State, access: Access, *, standing: bool) -> tuple[State, Change]:
    if standing:
        digest = hashlib.sha256(access.model_dump_json().encode()).hexdigest()
        if digest == state.access_standing and state.access is not None:
            note = "" if state.access == access else STANDS
            return state, Change(kind=ACCESS, name=ACCESS, action="unchanged", note=note)
        state = replace(state, access_standing=digest)
    if state.access == access:
        return state, Change(kind=ACCESS, name=ACCESS, action="unchanged")
    action: Did = "created" if state.access is None else "updated"
    fields = () if state.access is None else differences(access_fields(state.access), access_fields(access))
    return replace(state, access=access), Change(kind=ACCESS, name=ACCESS, action=action, fields=fields)


def _check(request: Apply) -> None:
    """Raises BadInput for bad and repeated names, and for a project that can't be pruned."""
    named = [("model", document.name) for document in request.models] + [(feed.kind, feed.name) for feed in request.feeds]
    times = Counter(named)
    for kind, name in named:
        if times[kind, name] > 1:
            raise BadInput(f"the {kind} {name!r} is there twice", where=f"{kind} {name}", remedy="keep one of the documents")
        check_name(name, what=kind)
    if request.project:
        check_name(request.project, what="project")
    elif request.prune:
        raise BadInput(
            "no project is named, so nothing is known to belong to it",
            where="prune",
            remedy="add a document `kind: Project` with a `name` to the folder, apply it once, and prune from then on",
        )


def _prune(at: Context, state: State, request: Apply) -> tuple[State, list[Change]]:
    """The state with everything on its way out that belongs to the project and has no document. Raises Conflict where what has
    one, or is another project's, scores with a model that has none."""
    kept = {feed_key(feed.kind, feed.name) for feed in request.feeds}
    changes = []
    for key, feed in sorted(state.feeds.items()):
        if feed.project == request.project and key not in kept and feed.removal is None:
            state = feeds.begin_removal(state, feed, at.actor)
            changes.append(Change(kind=feed.spec.kind.value, name=feed.spec.name, action="removed"))
    named = {document.name for document in request.models}
    for name, model in sorted(state.models.items()):
        if model.project == request.project and name not in named and model.removal is None:
            state = models.begin_removal(state, model, at.actor, artifacts=False)
            changes.append(Change(kind="model", name=name, action="removed"))
    return state, changes


def _apply_model(at: Context, state: State, document: ModelDocument, project: str) -> tuple[State, Change]:
    model = state.models.get(document.name) or new_model(at, document.name)
    if model.removal is not None:
        raise being_removed(f"model {document.name}")
    created, note = model.serving is None, _what_waits(state, document)
    project = project or model.project
    now = (model.serving, model.plan, model.payloads, model.drift, model.labels, model.project)
    if now == (document.serving, document.rollout, document.payloads, document.drift, document.labels, project):
        return state, Change(kind="model", name=document.name, action="unchanged", note=note)
    before = model_fields(model.serving, model.plan, model.project, model.payloads, model.drift, model.labels)
    after = model_fields(document.serving, document.rollout, project, document.payloads, document.drift, document.labels)
    fields = () if created else differences(before, after)
    scaling = document.serving.scaling
    if not created and model.serving is not None and scaling != model.serving.scaling and scaling.mode is ScalingMode.MANUAL:
        # A new number in the document is a person's word too.
        wanted = scaling.replicas
        model = replace(model, scale_to=wanted) if model.stable is not None else replace(model, replicas=wanted)
    changed = replace(
        model,
        serving=document.serving,
        plan=document.rollout,
        payloads=document.payloads,
        drift=document.drift,
        project=project,
    )
    changed = _with_labels(at, state, changed, document.labels)
    if model.serving != document.serving:
        # What has failed may start with the new section: it is tried at once.
        changed = replace(changed, retries={number: due_at(at.now_s, retry) for number, retry in model.retries.items()})
    _require_outputs(state, document.name, document.serving)
    action: Did = "created" if created else "updated"
    return state.with_model(changed), Change(kind="model", name=document.name, action=action, note=note, fields=fields)


def _with_labels(at: Context, state: State, model: Model, labels: LiveLabels | None) -> Model:
    """The model with this section. Raises Conflict where the version that serves has no such output."""
    if labels is not None and labels != model.labels and model.stable is not None:
        require_output(state.versions[VersionId(model.name, model.stable)], labels.output, labels.loss, "labels")
    same = labels is None or labels.same_losses(model.labels)
    return replace(model, labels=labels, quality=model.quality if same else model.quality.defined(at.now_s))


def _require_outputs(state: State, model: str, serving: Serving) -> None:
    """Raises Conflict where the version that serves, or the newest where none does, does not give what is limited."""
    version = state.stable_or_newest(model)
    if version is not None and (why := misfit(serving.outputs, version.signature)):
        where = f"model {model}: serving.outputs"
        raise Conflict(f"version {version.id.number}: {why}", where=where, remedy="name the outputs that the version has")


def _what_waits(state: State, document: ModelDocument) -> str:
    model, rollout = state.models.get(document.name), state.active(document.name)
    if rollout is None or model is None or model.plan == document.rollout:
        return ""
    return f"the rollout of version {rollout.candidate} keeps its plan; the new one is for the next"


def _apply_feed(at: Context, state: State, document: FeedDocument, project: str) -> tuple[State, Change]:
    _check_model(at, state, document)
    text = json.dumps(document.spec, sort_keys=True, separators=(",", ":"))
    # The model belongs to the digest: a stream that moves to another model has to be started anew.
    digest = hashlib.sha256(f"{document.model}\n{text}".encode()).hexdigest()
    spec = FeedSpec(FeedKind(document.kind), document.name, document.model, text, digest, document.schedule)
    known = state.feeds.get(spec.app)
    if known is None:
        feed = Feed(spec, since_s=at.now_s, project=project)
        return _with_feed(state, feed), Change(kind=document.kind, name=document.name, action="created")
    if known.removal is not None:
        raise being_removed(f"{document.kind} {document.name}")
    project = project or known.project
    if (known.spec, known.project) == (spec, project):
        return state, Change(kind=document.kind, name=document.name, action="unchanged")
    feed = replace(known, spec=spec, project=project)
    if known.spec != spec:
        feed = replace(feed, retry=None)
    if known.spec.schedule != spec.schedule:
        # Without a schedule nothing is left of it but what persons asked for.
        fires = feed.fires if spec.schedule is not None else tuple(fire for fire in feed.fires if fire.by)
        feed = replace(feed, since_s=at.now_s, fires=fires)
    fields = differences(feed_fields(known.spec, known.project), feed_fields(spec, project))
    return _with_feed(state, feed), Change(kind=document.kind, name=document.name, action="updated", fields=fields)


def _check_model(at: Context, state: State, document: FeedDocument) -> None:
    """Raises BadInput where there is no such model, Conflict where it is being removed."""
    model = state.models.get(document.model)
    if model is None:
        known = ", ".join(name for name in sorted(state.models) if at.caller.sees(name)) or "none yet"
        raise BadInput(
            f"there is no model {document.model!r}",
            where=f"{document.kind} {document.name}: model",
            remedy=f"apply its Model document too; known models: {known}",
        )
    if model.removal is not None:
        raise being_removed(f"model {document.model}")


def _with_feed(state: State, feed: Feed) -> State:
    return replace(state, feeds={**state.feeds, feed.spec.app: feed})


APPLY = CommandEntry(
    "apply", Apply, Applied, _apply, "Makes models, streams and batches as the documents say: all, or none", _asks
)
COMMANDS = (APPLY,)
