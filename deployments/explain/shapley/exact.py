"""Shapley values by their definition, from all 2^G mixtures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cluster.errors import BadInput
from deployments.explain.form import Floats
from deployments.explain.mixing import Evaluator, Mixture
from deployments.explain.result import GroupValues, nothing

MOST_EXACT = 12


def exact(mixture: Mixture, evaluator: Evaluator, baselines: Floats, evaluations: int) -> GroupValues:
    """All 2^G mixtures with as many other rows as the evaluations allow. Raises BadInput for more groups than 12, or than these
    allow."""
    size = len(mixture.groups)
    if size > MOST_EXACT:
        raise BadInput(
            f"exact is for up to {MOST_EXACT} features, and there are {size:,}",
            where="explain.method",
            remedy="say shapley, or put features together in explain.groups",
        )
    if 2**size > evaluations:
        raise BadInput(
            f"{size} features need {2**size:,} evaluations, and {evaluations:,} are allowed",
            where="explain.evaluations",
            remedy="allow more, say method: shapley, or put features together in explain.groups",
        )
    masks = (np.arange(2**size)[:, None] >> np.arange(size)[None, :] & 1).astype(np.bool_)
    total, used = np.zeros(2**size), 0
    for other in range(min(len(mixture), evaluations // 2**size)):
        values = evaluator.values(mixture, masks, np.full(len(masks), other))
        if values is None:
            break
        total += values
        used += 1
    if not used:
        return nothing(size, float(baselines[0]), 1)
    mean = total / used
    cut = used < min(len(mixture), evaluations // 2**size)
    return GroupValues(_weighed(mean, masks), np.zeros(size), float(mean[0]), used, cut)


def _weighed(values: Floats, masks: npt.NDArray[np.bool_]) -> Floats:
    """Shapley's mean of what each group adds to each of the sets without it, [G]."""
    size = masks.shape[1]
    taken = masks.sum(axis=1)
    ways = np.array([1.0] + [0.0] * size)
    for count in range(1, size):
        ways[count] = ways[count - 1] * count / (size - count)
    weights = ways / max(size, 1)
    found = np.zeros(size)
    for group in range(size):
        without = np.flatnonzero(~masks[:, group])
        found[group] = float((weights[taken[without]] * (values[without | 1 << group] - values[without])).sum())
    return found
