"""Occlusion: how much the answer loses where one patch of an image, or one group, is as in other rows. It does not sum up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.errors import BadInput
from deployments.explain.features import Places, image_axes
from deployments.explain.form import Floats
from deployments.explain.mixing import Evaluator, Mixture
from deployments.explain.result import GroupValues, nothing

# Of the shorter side; neighbouring windows overlap by half.
WINDOW_SHARE = 7


def occluded(mixture: Mixture, evaluator: Evaluator, answer: float, baselines: Floats, evaluations: int) -> GroupValues:
    """Takes as many other rows as the evaluations allow. Raises BadInput where these don't suffice for one."""
    windows, size = _windows(mixture), len(mixture.groups)
    count = len(windows)
    if count > evaluations:
        raise BadInput(
            f"{count:,} patches need as many evaluations, and {evaluations:,} are allowed",
            where="explain.evaluations",
            remedy="allow more, or put features together in explain.groups, an image's by explain.blocks",
        )
    rows = min(len(mixture), evaluations // max(count, 1))
    lost, used = np.zeros(count), 0
    for other in range(rows):
        values = _without(mixture, evaluator, windows, other)
        if values is None:
            break
        lost += answer - values
        used += 1
    if not used:
        return nothing(size, float(baselines[0]), 1)
    found = _spread(windows, lost / used, size)
    return GroupValues(found, np.zeros(size), float(baselines[:used].mean()), used, cut=used < rows)


def _without(mixture: Mixture, evaluator: Evaluator, windows: Sequence[Places], other: int) -> Floats | None:
    """The target of the row with each window as in the other row, [m]; None where the deadline passed first."""
    found = np.empty(len(windows))
    for start in range(0, len(windows), evaluator.batch_rows):
        some = windows[start : start + evaluator.batch_rows]
        masks = np.ones((len(some), len(mixture.groups)), np.bool_)
        for place, window in enumerate(some):
            masks[place, window] = False
        values = evaluator.values(mixture, masks, np.full(len(some), other))
        if values is None:
            return None
        found[start : start + len(some)] = values
    return found


def _spread(windows: Sequence[Places], lost: Floats, size: int) -> Floats:
    """What the windows lost, [m], as the mean over each group's windows of its share of them, [G]."""
    total, times = np.zeros(size), np.zeros(size)
    for window, share in zip(windows, lost.tolist(), strict=True):
        total[window] += share / len(window)
        times[window] += 1
    return np.asarray(total / np.maximum(times, 1))


def _windows(mixture: Mixture) -> list[Places]:
    """The groups in each window: squares that overlap over images whose values are not grouped; every other group by itself."""
    windows: list[Places] = []
    alone = np.ones(len(mixture.groups), np.bool_)
    for name, shape in mixture.shapes.items():
        of, axes = mixture.groups.of[name], image_axes(shape)
        if axes is None or len(np.unique(of)) < len(of):
            continue
        alone[of] = False
        at = [np.indices(shape)[axis].ravel() for axis in axes]
        side = max(2, round(min(shape[axis] for axis in axes) / WINDOW_SHARE))
        tops, lefts = (_starts(shape[axis], side) for axis in axes)
        for top in tops:
            for left in lefts:
                inside = (at[0] >= top) & (at[0] < top + side) & (at[1] >= left) & (at[1] < left + side)
                windows.append(of[inside])
    return [*windows, *np.flatnonzero(alone)[:, None]]


def _starts(length: int, side: int) -> list[int]:
    """Where windows begin along an axis: every half window, and one that ends where it ends."""
    found = list(range(0, length - side + 1, max(1, side // 2)))
    return found if found[-1] == length - side else [*found, length - side]
