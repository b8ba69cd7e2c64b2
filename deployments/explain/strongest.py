"""An explanation's features in the order of what they are worth. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

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
