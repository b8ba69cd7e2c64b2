"""Whether two versions agree on a row. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from deployments.engines.datatypes import Array

Tolerance = float | Mapping[str, float] | None


def disagreements(stable: Mapping[str, Array], candidate: Mapping[str, Array], tolerance: Tolerance) -> npt.NDArray[np.bool_]:
    """Which rows differ in any output, bool [n].

    Floating-point outputs differ by more than `tolerance` (one for all, or by name) in any place; without one, by the argmax on
    the last axis (of a single number: by its rounding to the nearest whole). Other datatypes differ where they are not equal.
    """
    rows = len(next(iter(stable.values())))
    differ = np.zeros(rows, dtype=np.bool_)
    for name, one in stable.items():
        other = candidate.get(name)
        if other is None or other.shape != one.shape:
            return np.ones(rows, dtype=np.bool_)
        allowed = tolerance.get(name) if isinstance(tolerance, Mapping) else tolerance
        differ |= _differ(one, other, allowed).reshape(rows, -1).any(axis=1)
    return differ


def _differ(one: Array, other: Array, tolerance: float | None) -> npt.NDArray[np.bool_]:
    if not np.issubdtype(one.dtype, np.floating):
        return np.asarray(one != other, dtype=np.bool_)
    if tolerance is not None:
        return np.asarray(~np.isclose(one, other, rtol=0, atol=tolerance, equal_nan=True), dtype=np.bool_)
    if one.ndim > 1 and one.shape[-1] > 1:
        return np.asarray(np.argmax(one, axis=-1) != np.argmax(other, axis=-1), dtype=np.bool_)
    return np.asarray(np.rint(one) != np.rint(other), dtype=np.bool_)
