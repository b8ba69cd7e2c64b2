"""Which method `auto` is, and how large the squares of an image are. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deployments.explain.features import FeatureGroups, RowShapes, image_axes
from deployments.explain.form import ExplainMethod
from deployments.explain.shapley.exact import MOST_EXACT
from deployments.explain.shapley.sampled import least_evaluations

# So many pairs of walks are worth having; below, an image is cut into larger squares.
PAIRS_WANTED = 8
# Exact values against fewer background rows than this say less than sampled ones against all.
EXACT_ROWS = 16


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What `auto` goes by. `gradients`: the version has some, and every input is floating-point.

    `works` are the methods that the build saw working, None where it did not try.
    """

    shapes: RowShapes
    groups: FeatureGroups
    rows: int
    evaluations: int
    gradients: bool
    works: tuple[ExplainMethod, ...] | None
    may_cut: bool


def choose(circumstances: Circumstances, cut: Callable[[int], FeatureGroups]) -> tuple[ExplainMethod, FeatureGroups]:
    """The method and the groups. `cut` makes groups of an image's squares of so many pixels a side."""
    groups, evaluations = circumstances.groups, circumstances.evaluations
    size = len(groups)
    affordable = size <= MOST_EXACT and 2**size * min(circumstances.rows, EXACT_ROWS) <= evaluations
    if affordable and _works(circumstances, ExplainMethod.EXACT):
        return ExplainMethod.EXACT, groups
    if circumstances.gradients and _works(circumstances, ExplainMethod.GRADIENTS):
        return ExplainMethod.GRADIENTS, groups
    if circumstances.may_cut and _pairs(groups, evaluations) < PAIRS_WANTED:
        sides = [min(shape[axis] for axis in axes) for shape in circumstances.shapes.values() if (axes := image_axes(shape))]
        side = 2
        while sides and _pairs(groups, evaluations) < PAIRS_WANTED and side <= max(sides) // 2:
            groups, side = cut(side), side * 2
    return ExplainMethod.SHAPLEY, groups


def _pairs(groups: FeatureGroups, evaluations: int) -> int:
    return evaluations // least_evaluations(len(groups))


def _works(circumstances: Circumstances, method: ExplainMethod) -> bool:
    return circumstances.works is None or method in circumstances.works
