"""How large a change is, for eyes: from two histograms over the same bins. Pure; no alarm is decided by these."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counted = npt.NDArray[np.float64] | npt.NDArray[np.int64]

# So much of a row stands in each bin before any is counted, so that an empty one makes no size infinite.
_PRIOR = 0.5


def psi(before: Counted, after: Counted) -> Floats:
    """The population stability index of histograms [..., b]: above 0.1 is commonly called some change, above 0.25 much."""
    p, q = shares(before, _PRIOR), shares(after, _PRIOR)
    found: Floats = ((q - p) * np.log(q / p)).sum(axis=-1)
    return found


def js(before: Counted, after: Counted) -> Floats:
    """The Jensen-Shannon distance of histograms [..., b] (base 2): 0 where they are alike, 1 where they share no bin."""
    p, q = shares(before, 0.0), shares(after, 0.0)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(one > 0, one * np.log2(one / middle), 0.0).sum(axis=-1) for one in (p, q)]
    found: Floats = np.sqrt(((parts[0] + parts[1]) / 2).clip(0, 1))
    return found


def shares(counts: Counted, prior: float = 0.0) -> Floats:
    """The share of each bin of histograms [..., b], `prior` of a row in each added; 0 where there are no rows."""
    raised = counts.astype(np.float64) + prior
    total = raised.sum(axis=-1, keepdims=True)
    found: Floats = np.divide(raised, total, out=np.zeros_like(raised), where=total > 0)
    return found
