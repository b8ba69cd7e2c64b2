"""What a command names: found in the state, or refused in words that say what there is."""

from __future__ import annotations

from cluster.errors import Conflict, NotFound
from cluster.rollout.record import Rollout
from cluster.state import Feed, Model, State, feed_key
from cluster.versions import Version, VersionId


def known_model(state: State, name: str) -> Model:
    """The model of that name. Raises NotFound."""
    if name not in state.models:
        known = ", ".join(sorted(state.models)) or "none yet"
        raise NotFound(f"there is no model {name!r}", where="model", remedy=f"known models: {known}")
    return state.models[name]


def known_version(state: State, model: str, number: int) -> Version:
    """That version of a model. Raises NotFound."""
    version = state.versions.get(VersionId(model, number))
    if version is None:
        known = ", ".join(str(v.id.number) for v in state.versions_of(model)) or "none"
        raise NotFound(f"there is no version {number}", where=f"model {model}", remedy=f"versions: {known}")
    return version


def active_rollout(state: State, model: str) -> Rollout:
    """The rollout under way. Raises NotFound for an unknown model, Conflict where none is."""
    known_model(state, model)
    active = state.active(model)
    if active is None:
        raise Conflict("no rollout is under way", where=f"model {model}", remedy="`headrace rollout start` one")
    return active


def known_feed(state: State, kind: str, name: str) -> Feed:
    """The stream or batch of that name. Raises NotFound."""
    feed = state.feeds.get(feed_key(kind, name))
    if feed is None:
        known = ", ".join(sorted(f.spec.name for f in state.feeds.values() if f.spec.kind == kind)) or "none yet"
        raise NotFound(f"there is no {kind} {name!r}", where=kind, remedy=f"known: {known}")
    return feed
