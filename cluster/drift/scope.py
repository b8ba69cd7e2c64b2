"""Whose rows are watched, and how. Pure."""

from __future__ import annotations

from cluster.drift.section import Drift
from cluster.state import Model, State
from cluster.versions import VersionId

_DEFAULT = Drift()


def watched_versions(state: State) -> dict[VersionId, Drift]:
    """Whose rows are watched, and how."""
    found: dict[VersionId, Drift] = {}
    for name, model in state.models.items():
        for number in _watched_numbers(state, model):
            found[VersionId(name, number)] = model.drift or _DEFAULT
    return found


def watched_as(state: State, version: VersionId) -> Drift | None:
    """How the version's rows are watched; None where they are not."""
    model = state.models.get(version.model)
    if model is None or version.number not in _watched_numbers(state, model):
        return None
    return model.drift or _DEFAULT


def _watched_numbers(state: State, model: Model) -> set[int]:
    rollout = state.active(model.name)
    candidate = rollout.candidate if rollout is not None else None
    return {number for number in (model.stable, candidate) if number is not None}
