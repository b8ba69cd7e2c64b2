"""The features that speak most for or against an answer, by name: for people and for columns. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deployments.explain.features import feature_name
from deployments.explain.form import Explanation


@dataclass(frozen=True, slots=True)
class FeatureWorth:
    """What a feature, or a group of them, adds to the answer, and the standard error of that."""

    name: str
    value: float
    error: float


def strongest(
    explanation: Explanation,
    most: int,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
) -> list[FeatureWorth]:
    """At most so many, by size, falling; of equals the one that comes first in a row. A group stands for its features.

    `groups` are those of the options. `names` are, by input, what its values are called, in a row's order, in place of
    `image[3,5]`.
    """
    members = {member.replace(" ", "") for each in (groups or {}).values() for member in each}
    found = [FeatureWorth(name, value, error) for name, (value, error) in explanation.groups.items()]
    for name, values in explanation.attributions.items():
        if name in members or any(_square_of(name, group) for group in explanation.groups):
            continue
        flat, errors = values.ravel(), explanation.errors[name].ravel()
        # Among its own the others can't be there: hundreds of values need no names.
        for place in np.argsort(-np.abs(flat), kind="stable")[: most + len(members)].tolist():
            own = feature_name(name, values.shape, place)
            if own not in members:
                called = names[name][place] if names and name in names else own
                found.append(FeatureWorth(called, float(flat[place]), float(errors[place])))
    return sorted(found, key=lambda one: -abs(one.value))[:most]


def _square_of(name: str, group: str) -> bool:
    """Whether the group is a square that this input, an image, was cut into: then they make all of it."""
    return group.startswith(f"{name}[") and ":" in group
