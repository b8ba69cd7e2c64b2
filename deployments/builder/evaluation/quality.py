"""What a variant's answers are worth: against the labels, and against the imported model. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from deployments.engines.answers import class_output, columns, decided, flat, score_output
from deployments.engines.datatypes import Array
from deployments.profiles.confidence import confidence, confidence_counts

# Below this a probability counts as this, so that one wrong row cannot make the mean infinite.
SMALLEST_PROBABILITY = 1e-7
REGRESSION_TOLERANCE = 0.05
# The difference of answers that can't be compared: NaN and a number, or other shapes. Finite, since JSON has no infinity.
UNLIKE = 1e300
Task = Literal["classification", "regression"]


class Confidence(BaseModel):
    """How often answers were right, by how sure the scores in `output` were: rows in each bucket of CONFIDENCES, those right."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    rows: tuple[int, ...]
    right: tuple[int, ...]


class Quality(BaseModel):
    """None where it has no meaning: no labels, or another task.

    `accuracy`, `agreement` are shares of rows; agreement is an equal class (the class output, or else the argmax of the first
    scores), or for regression a difference of at most 5 % of the standard deviation of the imported model's answers.
    `cross_entropy` is in nats a row. `max_difference` is over all outputs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    accuracy: float | None = None
    cross_entropy: float | None = None
    mse: float | None = None
    agreement: float
    max_difference: float
    confidence: Confidence | None = None


def quality(answers: Mapping[str, Array], reference: Mapping[str, Array], labels: Array | None, task: Task) -> Quality:
    """Compares `answers` with the imported model's (`reference`) and, where there are some, with the labels [n]."""
    numbers: dict[str, float | None] = {}
    sure: Confidence | None = None
    scores = score_output(reference)
    if task == "classification" or scores is None:
        agreement = float(np.mean(decided(answers) == decided(reference)))
        if labels is not None:
            right = decided(answers) == labels
            numbers = {"accuracy": float(np.mean(right)), "cross_entropy": _cross_entropy(answers, labels)}
            sure = _confidence(answers, right)
    else:
        mine, theirs = flat(answers[scores]), flat(reference[scores])
        spread = float(theirs.std()) or 1.0
        agreement = float(np.mean(np.abs(mine - theirs).max(axis=1) <= REGRESSION_TOLERANCE * spread))
        if labels is not None:
            numbers["mse"] = float(np.mean((mine - labels.astype(np.float64).reshape(len(mine), -1)) ** 2))
    rows = len(next(iter(reference.values())))
    difference = max_difference(answers, reference)
    return Quality(rows=rows, agreement=agreement, max_difference=difference, confidence=sure, **numbers)


def _confidence(answers: Mapping[str, Array], right: npt.NDArray[np.bool_]) -> Confidence | None:
    """None where no output tells how sure the model is."""
    name = score_output(answers)
    sure = confidence(answers[name]) if name is not None and name != class_output(answers) else None
    if name is None or sure is None:
        return None
    return Confidence(output=name, rows=confidence_counts(sure), right=confidence_counts(sure[right]))


def _cross_entropy(answers: Mapping[str, Array], labels: Array) -> float | None:
    """In nats a row; None where there are no probabilities, or it is not known which of them belongs to a label."""
    name, named = score_output(answers), class_output(answers)
    if name is None or name == named:
        return None
    scores = flat(answers[name])
    if scores.shape[1] < 2:
        return None
    if named is None:
        places = labels.astype(np.int64)
    else:
        known = columns(answers[named].reshape(len(labels)), scores)
        if known is None or not set(labels.tolist()) <= set(known):
            return None
        places = np.array([known[label] for label in labels.tolist()])
    picked = probabilities(scores)[np.arange(len(scores)), places]
    return float(-np.mean(np.log(np.maximum(picked, SMALLEST_PROBABILITY))))


def max_difference(answers: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """The largest absolute difference over all outputs; for BYTES 0 or 1, and UNLIKE where one is NaN and the other is not."""
    return max((float(row_differences(answers[name], theirs).max(initial=0)) for name, theirs in reference.items()), default=0.0)


def row_differences(mine: Array, theirs: Array) -> npt.NDArray[np.float64]:
    """The largest absolute difference in each row, [n]; for BYTES 0 or 1, and UNLIKE where one is NaN or the shapes differ."""
    rows = len(theirs)
    if mine.shape != theirs.shape:
        return np.full(rows, UNLIKE)
    if theirs.dtype == np.object_:
        return np.asarray((mine != theirs).reshape(rows, -1).any(axis=1), dtype=np.float64)
    left, right = flat(mine), flat(theirs)
    with np.errstate(invalid="ignore"):
        apart = np.abs(left - right)
    apart[(left == right) | (np.isnan(left) & np.isnan(right))] = 0
    apart[~np.isfinite(apart)] = UNLIKE
    return np.asarray(apart.max(axis=1, initial=0))


def are_probabilities(scores: npt.NDArray[np.float64]) -> bool:
    """Whether each row of [n, k] is a distribution over k classes."""
    return bool(scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-2))


def probabilities(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rows as they are where they are probabilities already; else their softmax."""
    if are_probabilities(scores):
        return scores
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
