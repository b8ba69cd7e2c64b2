"""How right a version was at build, on the rows that it was evaluated on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.quality.section import LiveLabels
from cluster.rollout.checks.labels import Loss
from cluster.rollout.sequential import highest
from cluster.versions import BuiltQuality

ALPHA = 0.01
"""How often, at most, the true loss at build is above `BuiltLoss.high`. One-sided, as only that makes alarms false."""


@dataclass(frozen=True, slots=True)
class BuiltLoss:
    """The mean loss at build, of so many rows, and what it is at most, given that the rows are a sample."""

    mean: float
    rows: int
    high: float


def built_loss(built: BuiltQuality | None, wanted: LiveLabels) -> BuiltLoss | None:
    """In the unit of the live losses; None where the report does not tell it.

    Of a regression the report has the mean square alone. What is cut off at `scale` is no more than that, and the mean of a
    number no more than the root of its mean square: the loss is then at most what is said here.
    """
    if built is None or built.rows <= 0:
        return None
    if wanted.scale is None:
        mean = None if built.accuracy is None else 1.0 - built.accuracy
    elif built.mse is None or not math.isfinite(built.mse):
        mean = None
    else:
        square = built.mse / wanted.scale**2
        mean = square if wanted.loss is Loss.SQUARED else math.sqrt(square)
    if mean is None:
        return None
    mean = min(max(mean, 0.0), 1.0)
    return BuiltLoss(mean, built.rows, highest(built.rows, built.rows * mean, ALPHA))
