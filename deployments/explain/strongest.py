"""An explanation's features in the order of what they are worth. Pure."""

from __future__ import annotations

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


def strongest_first(one: Explanation, row: Mapping[str, Array], most: int | None = None) -> list[FeaturePart]:
    """Groups, and features in none, by the size of their parts: the first `most`, or all. `row` holds inputs in a row's shape."""
    parts = [FeaturePart(name, None, worth, error) for name, (worth, error) in one.groups.items()]
    for name, worth in one.attributions.items():
        flat, errors, values = worth.ravel(), one.errors[name].ravel(), row[name].ravel()
        alone = np.flatnonzero(~one.grouped[name].ravel())
        for place in alone[np.argsort(-np.abs(flat[alone]), kind="stable")][:most].tolist():
            value = values[place]
            plain = value.item() if isinstance(value, np.generic) else value
            feature = feature_name(name, worth.shape, place)
            parts.append(FeaturePart(feature, plain, float(flat[place]), float(errors[place])))
    return sorted(parts, key=lambda part: -abs(part.worth))[:most]


def feature_count(one: Explanation) -> int:
    """How many groups, and features in none, there are."""
    return len(one.groups) + sum(int(np.count_nonzero(~grouped)) for grouped in one.grouped.values())


def strongest(one: Explanation, most: int, names: Mapping[str, Sequence[str]] | None = None) -> list[FeaturePart]:
    """As `strongest_first`, without the row's values. `names` are, by input, what its values are called, in a row's order, in
    place of `image[3,5]`."""
    found = [FeaturePart(name, None, worth, error) for name, (worth, error) in one.groups.items()]
    for name, worth in one.attributions.items():
        flat, errors = worth.ravel(), one.errors[name].ravel()
        alone = np.flatnonzero(~one.grouped[name].ravel())
        for place in alone[np.argsort(-np.abs(flat[alone]), kind="stable")][:most].tolist():
            called = names[name][place] if names and name in names else feature_name(name, worth.shape, place)
            found.append(FeaturePart(called, None, float(flat[place]), float(errors[place])))
    return sorted(found, key=lambda part: -abs(part.worth))[:most]
