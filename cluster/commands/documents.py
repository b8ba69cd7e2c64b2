"""Taking a project's documents: all of them, or none. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any, Literal

from cluster.commands.command import Command, CommandEntry, Context, Message, Outcome
from cluster.errors import BadInput
from cluster.fleet.retry import due_at
from cluster.fleet.serving import AskedServing, ScalingMode, Serving
from cluster.ports import FeedKind, FeedSpec
from cluster.rollout.plan import Plan
from cluster.schedule.fires import AskedSchedule
from cluster.state import AuditEvent, Feed, Model, State, feed_key
from cluster.versions import check_name

Did = Literal["created", "updated", "unchanged"]


class ModelDocument(Message):
    """A Model as applied (its build section stays with the builder)."""

    name: str
    serving: AskedServing = Serving()
    rollout: Plan = Plan()


class FeedDocument(Message):
    """A Stream or Batch as applied; `spec` is what only its feed understands. Only a Batch has a `schedule`."""

    kind: Literal["stream", "batch"]
    name: str
    model: str
    spec: dict[str, Any]
    schedule: AskedSchedule | None = None


class Apply(Command):
    """All documents of a project at once: all are taken, or none."""

    models: tuple[ModelDocument, ...] = ()
    feeds: tuple[FeedDocument, ...] = ()


class Change(Message):
    """What `apply` did to one document. `note` says what it does not do yet."""

    kind: str
    name: str
    action: Literal["created", "updated", "unchanged"]
    note: str = ""


class Applied(Message):
    """The changes, in the documents' order."""

    changes: tuple[Change, ...]


def _apply(at: Context, request: Apply) -> Outcome:
    state, answer, events = _applied(at.state, request, at.actor, at.now_s)
    return Outcome(state, answer, tuple(events))


def _applied(state: State, request: Apply, actor: str, now_s: float) -> tuple[State, Applied, list[AuditEvent]]:
    """The state with the documents in it, and what changed. Raises BadInput for bad or repeated names and unknown models."""
    _refuse_repeated([("model", document.name) for document in request.models])
    _refuse_repeated([(document.kind, document.name) for document in request.feeds])
    changes: list[Change] = []
    for document in request.models:
        check_name(document.name, what="model")
        note = _what_waits(state, document)
        state, action = _apply_model(state, document, now_s)
        changes.append(Change(kind="model", name=document.name, action=action, note=note))
    for feed in request.feeds:
        check_name(feed.name, what=feed.kind)
        if feed.model not in state.models:
            known = ", ".join(sorted(state.models)) or "none yet"
            raise BadInput(
                f"there is no model {feed.model!r}",
                where=f"{feed.kind} {feed.name}: model",
                remedy=f"apply its Model document too; known models: {known}",
            )
        state, action = _apply_feed(state, feed, now_s)
        changes.append(Change(kind=feed.kind, name=feed.name, action=action))
    model_of = {feed_key(feed.kind, feed.name): feed.model for feed in request.feeds}
    events = [
        AuditEvent(
            now_s,
            model_of.get(feed_key(change.kind, change.name), change.name),
            None,
            "applied",
            actor,
            {"kind": change.kind, "name": change.name, "action": change.action},
        )
        for change in changes
        if change.action != "unchanged"
    ]
    return state, Applied(changes=tuple(changes)), events


def _refuse_repeated(named: list[tuple[str, str]]) -> None:
    for kind, name in named:
        if named.count((kind, name)) > 1:
            raise BadInput(f"the {kind} {name!r} is there twice", where=f"{kind} {name}", remedy="keep one of the documents")


def _apply_model(state: State, document: ModelDocument, now_s: float) -> tuple[State, Did]:
    model = state.models.get(document.name, Model(document.name))
    created = model.serving is None
    if (model.serving, model.plan) == (document.serving, document.rollout):
        return state, "unchanged"
    scaling = document.serving.scaling
    if not created and model.serving is not None and scaling != model.serving.scaling and scaling.mode is ScalingMode.MANUAL:
        # A new number in the document is a person's word too.
        wanted = scaling.replicas
        model = replace(model, scale_to=wanted) if model.stable is not None else replace(model, replicas=wanted)
    changed = replace(model, serving=document.serving, plan=document.rollout)
    if model.serving != document.serving:
        # What has failed may start with the new section: it is tried at once.
        changed = replace(changed, retries={number: due_at(now_s, retry) for number, retry in model.retries.items()})
    return state.with_model(changed), "created" if created else "updated"


def _what_waits(state: State, document: ModelDocument) -> str:
    model, rollout = state.models.get(document.name), state.active(document.name)
    if rollout is None or model is None or model.plan == document.rollout:
        return ""
    return f"the rollout of version {rollout.candidate} keeps its plan; the new one is for the next"


def _apply_feed(state: State, document: FeedDocument, now_s: float) -> tuple[State, Did]:
    text = json.dumps(document.spec, sort_keys=True, separators=(",", ":"))
    # The model belongs to the digest: a stream that moves to another model has to be started anew.
    digest = hashlib.sha256(f"{document.model}\n{text}".encode()).hexdigest()
    spec = FeedSpec(FeedKind(document.kind), document.name, document.model, text, digest, document.schedule)
    known = state.feeds.get(spec.app)
    if known is not None and known.spec == spec:
        return state, "unchanged"
    feed = Feed(spec, since_s=now_s) if known is None else replace(known, spec=spec, retry=None)
    if known is not None and known.spec.schedule != spec.schedule:
        feed = replace(feed, since_s=now_s, fires=feed.fires if spec.schedule is not None else ())
    return replace(state, feeds={**state.feeds, spec.app: feed}), "created" if known is None else "updated"


APPLY = CommandEntry("apply", Apply, Applied, _apply, "Makes models, streams and batches as the documents say: all, or none")
COMMANDS = (APPLY,)
