"""Occlusion: how much the answer loses where one patch of an image, or one group, is as in other rows. It does not sum up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.errors import BadInput
from deployments.explain.features import image_axes
from deployments.explain.form import Floats
from deployments.explain.mixing import Evaluator, Mixture
from deployments.explain.result import GroupValues, nothing

# Of the shorter side; neighbouring windows overlap by half.
WINDOW_SHARE = 7


@dataclass(frozen=True, slots=True)
class _Windows:
    """m windows: which groups each covers, bool [m, G]."""

    covers: npt.NDArray[np.bool_]

    def spread(self, lost: Floats) -> Floats:
        """What the windows lost, [m], as the mean over each group's windows of its share of them, [G]."""
        shares = lost / np.maximum(self.covers.sum(axis=1), 1)
        return np.asarray(self.covers.T.astype(np.float64) @ shares / np.maximum(self.covers.sum(axis=0), 1))


def occluded(mixture: Mixture, evaluator: Evaluator, answer: float, baselines: Floats, evaluations: int) -> GroupValues:
    """Takes as many other rows as the evaluations allow. Raises BadInput where these don't suffice for one."""
    windows = _windows(mixture)
    count, size = windows.covers.shape
    if count > evaluations:
        raise BadInput(
            f"{count:,} patches need as many evaluations, and {evaluations:,} are allowed",
            where="explain.evaluations",
            remedy="allow more, or put features together in explain.groups, an image's by explain.blocks",
        )
    rows = min(len(mixture), evaluations // max(count, 1))
    lost, used = np.zeros(count), 0
    for other in range(rows):
        values = evaluator.values(mixture, ~windows.covers, np.full(count, other))
        if values is None:
            break
        lost += answer - values
        used += 1
    if not used:
        return nothing(size, float(baselines[0]), 1)
    found = windows.spread(lost / used)
    return GroupValues(found, np.zeros(size), float(baselines[:used].mean()), used, cut=used < rows)


def _windows(mixture: Mixture) -> _Windows:
    """Squares that overlap over images whose values are not grouped; every other group by itself."""
    size = len(mixture.groups)
    covers: list[npt.NDArray[np.bool_]] = []
    alone = np.ones(size, np.bool_)
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
                covers.append(np.isin(np.arange(size), of[inside]))
    covers += list(np.eye(size, dtype=np.bool_)[alone])
    return _Windows(np.array(covers, np.bool_).reshape(-1, size))


def _starts(length: int, side: int) -> list[int]:
    """Where windows begin along an axis: every half window, and one that ends where it ends."""
    found = list(range(0, length - side + 1, max(1, side // 2)))
    return found if found[-1] == length - side else [*found, length - side]
