"""Integrated gradients: the derivative along the straight way from another row to the row, times the way."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cluster.errors import BadInput, EngineFailure
from deployments.engines.datatypes import Array
from deployments.explain.form import Floats, Gradients
from deployments.explain.mixing import Evaluator, Mixture
from deployments.explain.result import COMPLETE_ENOUGH, GroupValues, nothing

STEPS, MOST_STEPS = 32, 256
# A step costs one batch for the outputs, and about two for the derivative.
EVALUATIONS_A_STEP = 3
MOST_ROWS = 16


def integrated(
    mixture: Mixture, evaluator: Evaluator, gradients: Gradients | None, answer: float, baselines: Floats, evaluations: int
) -> GroupValues:
    """By Gauss-Legendre steps, doubled for a way whose sum is off by too much. Raises BadInput where the version has no
    derivatives, an input is not floating-point, or the evaluations don't suffice for one way."""
    if gradients is None:
        raise BadInput(
            "the version has no torch program, so it has no gradients",
            where="explain.method",
            remedy="say shapley or occlusion, which any version has; or build it with engine: torch",
        )
    for name, row in mixture.row.items():
        if row.dtype.kind != "f":
            raise BadInput(
                f"input {name} is not floating-point, so it has no gradients",
                where="explain.method",
                remedy="say method: shapley",
            )
        if not (np.isfinite(row).all() and np.isfinite(mixture.others[name]).all()):
            raise BadInput(f"input {name} holds NaN or infinity", where="explain.method", remedy="say method: shapley")
    if evaluations < EVALUATIONS_A_STEP * STEPS:
        raise BadInput(
            f"gradients need {EVALUATIONS_A_STEP * STEPS} evaluations at least, and {evaluations:,} are allowed",
            where="explain.evaluations",
            remedy="allow more",
        )
    rows = min(len(mixture), MOST_ROWS, max(1, evaluations // (2 * EVALUATIONS_A_STEP * STEPS)))
    left = evaluations
    total, used = np.zeros(len(mixture.groups)), 0
    for other in range(rows):
        steps = STEPS
        way: Floats | None = None
        while EVALUATIONS_A_STEP * steps <= left:
            finer = _one_way(mixture, evaluator, gradients, other, steps)
            left -= EVALUATIONS_A_STEP * steps
            if finer is None:
                break
            way = finer
            away = answer - float(baselines[other])
            if abs(float(way.sum()) - away) <= COMPLETE_ENOUGH / 5 * max(abs(away), 1e-6) or steps >= MOST_STEPS:
                break
            steps *= 2
        if way is None:
            break
        total += way
        used += 1
    if not used:
        return nothing(len(mixture.groups), float(baselines[0]), 1)
    late = used < rows and evaluator.late
    return GroupValues(total / used, np.zeros(len(total)), float(baselines[:used].mean()), used, cut=late)


def _one_way(mixture: Mixture, evaluator: Evaluator, gradients: Gradients, other: int, steps: int) -> Floats | None:
    """What each group is worth on the way from one other row, [G]; None where the deadline passed first."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    found = np.zeros(len(mixture.groups))
    for start in range(0, steps, evaluator.batch_rows):
        if evaluator.late:
            return None
        part = slice(start, start + evaluator.batch_rows)
        share = (places[part] + 1)[:, None] / 2
        slopes = _slopes(mixture, evaluator, gradients, _between(mixture, other, share))
        for name, slope in slopes.items():
            away = mixture.row[name][0].astype(np.float64) - mixture.others[name][other].astype(np.float64)
            worth = (weights[part, None] / 2 * slope.reshape(len(slope), -1).astype(np.float64)).sum(axis=0) * away
            found += np.bincount(mixture.groups.of[name], weights=worth, minlength=len(found))
    return found


def _between(mixture: Mixture, other: int, share: Floats) -> dict[str, Array]:
    """Rows on the straight way: `share` [n, 1] is how far each has come."""
    made: dict[str, Array] = {}
    for name, row in mixture.row.items():
        start = mixture.others[name][other].astype(np.float64)
        way = start + share * (row[0].astype(np.float64) - start)
        made[name] = way.astype(row.dtype).reshape(len(share), *mixture.shapes[name])
    return made


def _slopes(mixture: Mixture, evaluator: Evaluator, gradients: Gradients, tensors: Mapping[str, Array]) -> dict[str, Array]:
    target = evaluator.target
    weights = target.slopes(evaluator.answers(tensors))
    evaluator.evaluations += 2 * len(weights)
    try:
        found = gradients(tensors, target.output, weights)
    except EngineFailure as error:
        raise BadInput(error.what, where="explain.method", remedy="say method: shapley, which any version has") from error
    if not all(np.isfinite(slope).all() for slope in found.values()):
        raise BadInput(
            "the version's gradients are no numbers on the way from the baseline",
            where="explain.method",
            remedy="say method: shapley",
        )
    return {name: found[name] for name in mixture.row}
