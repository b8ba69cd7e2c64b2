"""How far a share may lie from the profile's before it is drift: the profile's own sampling error, and the margin. Pure.

The profile's rows are a sample too. A bound that holds for all rates of a version at once, with a chance of at most `delta` that
any is wrong, is shared over features, and within one feature as follows.
- All its cuts at once, wherever these were placed: Dvoretzky, Kiefer and Wolfowitz with Massart's constant.
- Each rate by itself: Chernoff's bound by the Kullback-Leibler divergence, which is narrow for rare things. Where k of the
  profile's rows determine what is counted, it holds for the n - k others, and log(n choose k) pays for the choice (the sample
  compression bound of Littlestone and Warmuth; Langford, "Tutorial on practical prediction theory for classification", JMLR 6,
  2005).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cluster.drift.counts import DriftReference, Numbers
from cluster.drift.kinds import KINDS, RateKind

Floats = npt.NDArray[np.float64]

_BISECTIONS = 40
# Places that one who chose rows may still choose: a cut's among the codes between two edges, or how many names there are.
_PLACES = 256


def tolerated(reference: DriftReference, margin: float, delta: float) -> tuple[Floats, Floats]:
    """The lowest and the highest share, [r] each, at which a rate is still as in the profile.

    0 and 1 where nothing is known: then no drift is seen on that side.
    """
    low, high = known_within(reference, delta)
    return low - _reach(low, margin), high + _reach(high, margin)


def known_within(reference: DriftReference, delta: float) -> tuple[Floats, Floats]:
    """The interval, [r] each, in which the shares of the profile's own source lie: all at once, but for a chance of `delta`."""
    rows = np.array([feature.rows for feature in reference.features], np.int64)[reference.feature]
    of_feature = np.bincount(reference.feature, minlength=len(reference.features))[reference.feature]
    share = delta / max(len(reference.features), 1)
    price = math.log(3 / share) + np.log(of_feature) + _choices(rows, reference.picked)  # a third for each side, a third for DKW
    left = np.maximum(rows - reference.picked, 1)
    hits = np.minimum(reference.hits, left)
    low = _farthest(np.maximum(reference.hits - reference.picked, 0) / left, price / left, upwards=False)
    high = _farthest(hits / left, price / left, upwards=True)
    cut = (np.isin(reference.kind, [KINDS.index(RateKind.OUTPUT), KINDS.index(RateKind.INPUT)])) & np.isfinite(reference.cut)
    reach = np.sqrt(math.log(6 / share) / (2 * np.maximum(rows, 1)))
    seen = reference.hits / np.maximum(rows, 1)
    low = np.where(cut, np.maximum(low, seen - reach), low)
    high = np.where(cut, np.minimum(high, seen + reach), high)
    unknown = rows <= reference.picked
    return np.where(unknown, 0.0, low.clip(0, 1)), np.where(unknown, 1.0, high.clip(0, 1))


def _reach(share: Floats, margin: float) -> Floats:
    return 2 * margin * np.sqrt(share * (1 - share))


def _choices(rows: Numbers, picked: Numbers) -> Floats:
    """The logarithm of how many things could have been counted instead, chosen by as many rows; 0 where it was fixed before."""
    pairs, place = np.unique(np.stack([rows, picked]), axis=1, return_inverse=True)
    found = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + math.log(_PLACES) if 0 < k <= n else 0.0
        for n, k in pairs.T.tolist()
    ]
    return np.array(found, np.float64)[place.reshape(-1)]


def _farthest(seen: Floats, most: Floats, *, upwards: bool) -> Floats:
    """The share farthest from `seen` on that side whose divergence from it is at most `most`, found by bisection."""
    inside, outside = seen.copy(), np.full_like(seen, 1.0 if upwards else 0.0)
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        near = _divergence(seen, middle) <= most
        inside, outside = np.where(near, middle, inside), np.where(near, outside, middle)
    return outside  # errs to the outside


def _divergence(seen: Floats, share: Floats) -> Floats:
    """Kullback-Leibler, of two shares."""
    with np.errstate(divide="ignore", invalid="ignore"):
        hit = np.where(seen > 0, seen * np.log(seen / share), 0.0)
        rest = np.where(seen < 1, (1 - seen) * np.log((1 - seen) / (1 - share)), 0.0)
    return hit + rest
