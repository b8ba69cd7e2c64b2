"""How sure a version is of its answers: the probability of the class that it gives. Pure numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cluster.watch.catalogue import CONFIDENCES
from deployments.engines.datatypes import Array

Floats = npt.NDArray[np.float64]
_BOUNDS = np.array(CONFIDENCES)


def confidence(scores: Array) -> Floats | None:
    """The highest probability of each row of scores [n, k], or that of the likelier class of one number, [n] or [n, 1].

    Scores that are no probabilities count as logits. None where rows hold no such thing.
    """
    if not np.issubdtype(scores.dtype, np.floating) or scores.ndim > 2 or 0 in scores.shape:
        return None
    flat = scores.reshape(len(scores), -1).astype(np.float64)
    if flat.shape[1] == 1:
        one = flat[:, 0]
        return np.maximum(one, 1 - one) if bool((one >= 0).all() and (one <= 1).all()) else None
    if not np.isfinite(flat).all():
        return None
    if bool((flat >= 0).all()) and np.allclose(flat.sum(axis=1), 1, atol=1e-2):
        return np.asarray(flat.max(axis=1))
    shifted = np.exp(flat - flat.max(axis=1, keepdims=True))
    return np.asarray(shifted.max(axis=1) / shifted.sum(axis=1))


def confidence_counts(sure: Floats) -> tuple[int, ...]:
    """How many lie in each of the buckets between CONFIDENCES; the last one is above all."""
    places = np.searchsorted(_BOUNDS, sure, side="left")
    return tuple(np.bincount(places, minlength=len(_BOUNDS) + 1).tolist())
