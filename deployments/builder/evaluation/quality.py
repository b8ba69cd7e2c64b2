"""What a variant's answers are worth: against the labels, and against the imported model. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from deployments.engines.datatypes import Array

Task = Literal["classification", "regression"]
# Below this a probability counts as this, so that one wrong row cannot make the mean infinite.
SMALLEST_PROBABILITY = 1e-7
REGRESSION_TOLERANCE = 0.05


class Quality(BaseModel):
    """None where it has no meaning: no labels, or another task. Judged on the first output.

    `accuracy`, `agreement` are shares of rows; agreement is an equal argmax, or for regression a difference of at most 5 % of the
    standard deviation of the imported model's answers. `cross_entropy` is in nats a row. `max_difference` is over all outputs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    accuracy: float | None = None
    cross_entropy: float | None = None
    mse: float | None = None
    agreement: float
    max_difference: float


def quality(answers: Mapping[str, Array], reference: Mapping[str, Array], labels: Array | None, task: Task) -> Quality:
    """Compares `answers` with the imported model's (`reference`) and, where there are some, with the labels [n]."""
    name = next(iter(reference))
    mine, theirs = _flat(answers[name]), _flat(reference[name])
    numbers: dict[str, float] = {}
    if task == "classification":
        agreement = float(np.mean(_classes(mine) == _classes(theirs)))
        if labels is not None:
            numbers["accuracy"] = float(np.mean(_classes(mine) == labels))
            if mine.shape[1] > 1:
                picked = probabilities(mine)[np.arange(len(mine)), labels.astype(np.int64)]
                numbers["cross_entropy"] = float(-np.mean(np.log(np.maximum(picked, SMALLEST_PROBABILITY))))
    else:
        spread = float(theirs.std()) or 1.0
        agreement = float(np.mean(np.abs(mine - theirs).max(axis=1) <= REGRESSION_TOLERANCE * spread))
        if labels is not None:
            numbers["mse"] = float(np.mean((mine - labels.astype(np.float64).reshape(len(mine), -1)) ** 2))
    return Quality(rows=len(mine), agreement=agreement, max_difference=max_difference(answers, reference), **numbers)


def max_difference(answers: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """The largest absolute difference over all outputs; for BYTES 0 or 1."""
    worst = 0.0
    for name, theirs in reference.items():
        mine = answers[name]
        if theirs.dtype == np.object_:
            worst = max(worst, float(np.any(mine != theirs)))
        elif theirs.size:
            worst = max(worst, float(np.max(np.abs(mine.astype(np.float64) - theirs.astype(np.float64)))))
    return worst


def probabilities(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rows as they are where they are probabilities already; else their softmax."""
    if scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-2):
        return scores
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def classes(answers: Mapping[str, Array]) -> int:
    """How many classes the first output tells apart; one number a row tells two."""
    return max(2, int(_flat(next(iter(answers.values()))).shape[1]))


def _flat(value: Array) -> npt.NDArray[np.float64]:
    return value.reshape(len(value), -1).astype(np.float64)


def _classes(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The argmax; with one number a row, whether it is above one half."""
    if scores.shape[1] == 1:
        return (scores[:, 0] > 0.5).astype(np.int64)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)
