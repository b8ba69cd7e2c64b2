"""Scoring functions that explanations are tried on, in numpy and known through and through."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.datatypes import Array
from deployments.explain.explaining import explain_rows
from deployments.explain.form import Background, ExplainMethod, ExplainOptions, Explanation


def listed(width: int) -> Signature:
    """One FP64 list of that width in, one number out."""
    return Signature(
        inputs=(TensorSpec(name="x", datatype=Datatype.FP64, shape=(-1, width)),),
        outputs=(TensorSpec(name="y", datatype=Datatype.FP64, shape=(-1,)),),
    )


class Counted:
    """A function of the list `x` [n, d] as a version's score; counts rows and calls, and remembers the largest batch."""

    def __init__(self, function) -> None:
        self.function = function
        self.rows = self.calls = self.largest = 0

    def __call__(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        x = tensors["x"]
        self.calls += 1
        self.rows += len(x)
        self.largest = max(self.largest, len(x))
        return {"y": np.asarray(self.function(x))}


def explained(
    function, row: Array, others: Array, *, classes: bool = False, method="auto", clock=time.monotonic, **options
) -> Explanation:
    """Explains one row [d] of a function of `x`, against the other rows [b, d]."""
    background = Background({"x": others}, classes=classes)
    score = function if isinstance(function, Counted) else Counted(function)
    signature = listed(others.shape[1])
    return explain_rows(
        score, {"x": row[None]}, signature, background, ExplainOptions(ExplainMethod(method), **options), clock=clock
    )[0]
