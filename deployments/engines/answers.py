"""What a model's answers say of a row: its class, where one of its outputs is the class or its scores tell it. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from deployments.engines.datatypes import Array


def class_output(answers: Mapping[str, Array]) -> str | None:
    """The output that is the class: the first of whole numbers, truths or text with one value a row; None where there is none."""
    for name, value in answers.items():
        whole = np.issubdtype(value.dtype, np.integer) or value.dtype in (np.bool_, np.object_)
        if whole and value.size == len(value):
            return name
    return None


def score_output(answers: Mapping[str, Array]) -> str | None:
    """The output that holds scores, or the number that a regression is about: the first of numbers, floating-point ones first."""
    floats = [name for name, value in answers.items() if np.issubdtype(value.dtype, np.floating)]
    numbers = [name for name, value in answers.items() if value.dtype != np.object_]
    return next(iter(floats + numbers), None)


def decided(answers: Mapping[str, Array]) -> Array:
    """The class of each row, [n]: as the class output says, or the argmax of the scores; of one score whether it is above 1/2.

    Where there are scores of nothing but text, the rows' first text.
    """
    name = class_output(answers)
    if name is not None:
        return answers[name].reshape(len(answers[name]))
    scores = score_output(answers)
    if scores is None:
        value = next(iter(answers.values()))
        return np.asarray(value.reshape(len(value), -1)[:, 0])
    return argmax(flat(answers[scores]))


def argmax(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The argmax of each row; with one number a row, whether it is above one half."""
    if scores.shape[1] == 1:
        return (scores[:, 0] > 0.5).astype(np.int64)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def flat(value: Array) -> npt.NDArray[np.float64]:
    """The numbers of each row as one float64 row, [n, k]; no number where a row has none."""
    return value.reshape(len(value), math.prod(value.shape[1:])).astype(np.float64)


def columns(chosen: Array, scores: npt.NDArray[np.float64]) -> dict[object, int] | None:
    """Which column of the scores each class stands for, as far as the rows tell; None where they contradict each other.

    `chosen` [n] are the classes that the model named beside its scores [n, k].
    """
    found: dict[object, int] = {}
    for label, column in zip(chosen.tolist(), scores.argmax(axis=1).tolist(), strict=True):
        if found.setdefault(label, column) != column:
            return None
    return found if len(set(found.values())) == len(found) else None
