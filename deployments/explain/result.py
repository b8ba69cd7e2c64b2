"""What a method found, and how far it can be relied on. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployments.explain.features import FeatureGroups, RowShapes
from deployments.explain.form import Floats

# Of what the answer is away from the baseline.
COMPLETE_ENOUGH = 0.05
# The length of the standard errors as a vector, of that of the attributions.
SURE_ENOUGH = 0.25
CUT = "the deadline came first"


@dataclass(frozen=True, slots=True)
class GroupValues:
    """By group, [G]: what each is worth, its standard error; the mean answer of the `rows` other rows that were used.

    `cut` says that the deadline came before all was done that the budget allows.
    """

    values: Floats
    errors: Floats
    baseline: float
    rows: int
    cut: bool = False


def nothing(groups: int, baseline: float, rows: int) -> GroupValues:
    """What there is where the deadline came before anything."""
    return GroupValues(np.zeros(groups), np.zeros(groups), baseline, rows, cut=True)


def per_value(found: Floats, groups: FeatureGroups, shapes: RowShapes) -> dict[str, Floats]:
    """[G] as arrays in each input's row shape: a group's share is the same for each of its values."""
    share = found / np.maximum(groups.sizes(), 1)
    return {name: share[of].reshape(shapes[name]) for name, of in groups.of.items()}


def roughness(found: GroupValues, answer: float) -> str:
    """Why an explanation can't be relied on, in words; empty where it can."""
    total = float(found.values.sum())
    away = answer - found.baseline
    told = [CUT] if found.cut else []
    # Where two effects cancel out, the answer may lie near the baseline all the same.
    size = max(abs(away), 0.1 * float(np.abs(found.values).sum()), 1e-6)
    if abs(total - away) > COMPLETE_ENOUGH * size:
        told.append(f"its parts sum up to {total:.4g}, and the answer is {away:.4g} from the baseline")
    length, error = float(np.linalg.norm(found.values)), float(np.linalg.norm(found.errors))
    if error > SURE_ENOUGH * length and error > 1e-6:
        told.append(f"its standard errors are {error / length:.0%} of it" if length else "it is nothing but error")
    return "; ".join(told)
