"""What leaves of answers where the model's document limits it: the one place for every way. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from cluster.errors import EngineFailure, Forbidden
from cluster.fleet.outputs import OutputLimit, OutputLimits
from deployments.engines.datatypes import Array

Numbers = npt.NDArray[np.float64]

LABEL_FROM = 0.5  # a single score is the label 1 from here on


def released(outputs: Mapping[str, Array], limits: OutputLimits, failed: Collection[int] = ()) -> dict[str, Array]:
    """The outputs with these limits, the arrays given untouched. `failed` are rows with an error, which stay zeros.

    Raises EngineFailure where a limited output is not there: rather no answer than one in full under another name.
    """
    found = dict(outputs)
    for name, limit in limits.items():
        if name not in found:
            what = f"it gives no output {name!r}, which `serving.outputs` limits"
            raise EngineFailure(what, where="serving.outputs", remedy="name its outputs there, and apply the document again")
        made = _limited(found[name], limit)
        if failed:
            made[list(failed)] = 0
        found[name] = made
    return found


def cannot_explain(model: str) -> Forbidden:
    """An explanation holds the answer, and much more, in full."""
    return Forbidden(
        "its outputs are limited, and explanations would tell what is held back",
        where=f"model {model}",
        remedy="explain the version from its files, as who may read those: `headrace explain`, or take `serving.outputs` out",
    )


def _limited(scores: Array, limit: OutputLimit) -> Array:
    made: Numbers = scores.astype(np.float64)
    if limit.label:
        return np.asarray(_label(made).astype(scores.dtype))
    if limit.top is not None and made.ndim > 1 and made.shape[-1] > limit.top:
        made = _top(made, limit.top)
    if limit.decimals is not None:
        made = np.round(made, limit.decimals)
    with np.errstate(over="ignore"):
        return np.asarray(made.astype(scores.dtype))


def _label(scores: Numbers) -> Numbers:
    if scores.ndim == 1 or scores.shape[-1] <= 1:
        return (scores >= LABEL_FROM).astype(np.float64)
    made = np.zeros_like(scores)
    np.put_along_axis(made, scores.argmax(axis=-1)[..., np.newaxis], 1, axis=-1)
    return made


def _top(scores: Numbers, count: int) -> Numbers:
    places = np.argsort(-scores, axis=-1, kind="stable")[..., :count]
    kept = np.take_along_axis(scores, places, axis=-1)
    # Above a kept score nothing else may stand, so that the largest stays the largest.
    made = np.broadcast_to(np.minimum(kept.min(axis=-1, keepdims=True), 0), scores.shape).copy()
    np.put_along_axis(made, places, kept, axis=-1)
    return made
