"""An explanation's features in the order of what they are worth. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deployments.engines.datatypes import Array
from deployments.explain.features import feature_name
from deployments.explain.form import Explanation


@dataclass(frozen=True, slots=True)
class FeaturePart:
    """What a feature, or a group of them, is worth, and its standard error. `value` is what the row holds, None for a group."""

    feature: str
    value: object
    worth: float
    error: float


def strongest_first(one: Explanation, row: Mapping[str, Array]) -> list[FeaturePart]:
    """Every group, and every feature in none, by the size of its part. `row` holds each input in a row's shape."""
    parts = [FeaturePart(name, None, worth, error) for name, (worth, error) in one.groups.items()]
    for name, worth in one.attributions.items():
        errors, values, grouped = one.errors[name].ravel(), row[name].ravel(), one.grouped[name].ravel()
        for place, part in enumerate(worth.ravel().tolist()):
            if not grouped[place]:
                value = values[place]
                plain = value.item() if hasattr(value, "item") else value
                parts.append(FeaturePart(feature_name(name, worth.shape, place), plain, part, float(errors[place])))
    return sorted(parts, key=lambda part: -abs(part.worth) if math.isfinite(part.worth) else 0)


def strongest(one: Explanation, most: int, names: Mapping[str, Sequence[str]] | None = None) -> list[FeaturePart]:
    """At most so many groups and features, by the size of their parts; of equals the first. No value of the row is told.

    `names` are, by input, what its values are called, in a row's order, in place of `image[3,5]`.
    """
    found = [FeaturePart(name, None, worth, error) for name, (worth, error) in one.groups.items()]
    for name, worth in one.attributions.items():
        parts, errors = np.where(one.grouped[name], 0.0, worth).ravel(), one.errors[name].ravel()
        # No more of one input can be among them: hundreds of others need no names.
        for place in np.argsort(-np.abs(parts), kind="stable")[:most].tolist():
            if not one.grouped[name].ravel()[place]:
                called = names[name][place] if names and name in names else feature_name(name, worth.shape, place)
                found.append(FeaturePart(called, None, float(parts[place]), float(errors[place])))
    return sorted(found, key=lambda part: -abs(part.worth))[:most]
