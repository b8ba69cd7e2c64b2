"""What a command names: found in the state, or refused in words that say what there is."""

from __future__ import annotations

from cluster.commands.command import Context
from cluster.errors import Conflict, NotFound
from cluster.removal import DELETED, LAST_NUMBER
from cluster.rollout.record import Rollout
from cluster.state import Feed, Model, State, feed_key
from cluster.versions import Version, VersionId


def known_model(at: Context, name: str) -> Model:
    """The model of that name. Raises NotFound."""
    if name not in at.state.models:
        known = ", ".join(name for name in sorted(at.state.models) if at.caller.sees(name)) or "none yet"
        raise NotFound(f"there is no model {name!r}", where="model", remedy=f"known models: {known}")
    return at.state.models[name]


def staying_model(at: Context, name: str) -> Model:
    """The model of that name, for what changes it. Raises NotFound, and Conflict where it is being removed."""
    model = known_model(at, name)
    if model.removal is not None:
        raise being_removed(f"model {name}")
    return model


def new_model(at: Context, name: str) -> Model:
    """A model of which nothing is remembered. Where one of that name was removed, numbers go on: each names one artifact ever."""
    numbers = [int(event.detail.get(LAST_NUMBER, 0)) for event in at.audit(name) if event.event == DELETED]
    return Model(name, last_number=max(numbers, default=0))


def being_removed(where: str) -> Conflict:
    """The refusal of what would change something that is on its way out."""
    return Conflict("it is being removed", where=where, remedy="wait until `headrace status` shows it no longer, then try again")


def has_changed(what: str, where: str) -> Conflict:
    """The refusal of what was decided on something that is not so any more."""
    return Conflict(what, where=where, remedy="look at it as it is now, and decide again")


def known_version(state: State, model: str, number: int) -> Version:
    """That version of a model. Raises NotFound."""
    version = state.versions.get(VersionId(model, number))
    if version is None:
        known = ", ".join(str(v.id.number) for v in state.versions_of(model)) or "none"
        raise NotFound(f"there is no version {number}", where=f"model {model}", remedy=f"versions: {known}")
    return version


def active_rollout(at: Context, model: str) -> Rollout:
    """The rollout under way. Raises NotFound for an unknown model, Conflict where none is."""
    staying_model(at, model)
    active = at.state.active(model)
    if active is None:
        raise Conflict("no rollout is under way", where=f"model {model}", remedy="`headrace rollout start` one")
    return active


def known_feed(at: Context, kind: str, name: str) -> Feed:
    """The stream or batch of that name. Raises NotFound."""
    feed = at.state.feeds.get(feed_key(kind, name))
    if feed is None:
        seen = (f.spec for f in at.state.feeds.values() if f.spec.kind == kind and at.caller.sees(f.spec.model))
        known = ", ".join(sorted(spec.name for spec in seen)) or "none yet"
        raise NotFound(f"there is no {kind} {name!r}", where=kind, remedy=f"known: {known}")
    return feed


def staying_feed(at: Context, kind: str, name: str) -> Feed:
    """The stream or batch of that name, for what changes it. Raises NotFound, and Conflict where it is being removed."""
    feed = known_feed(at, kind, name)
    if feed.removal is not None:
        raise being_removed(f"{kind} {name}")
    return feed
