"""Anytime-valid statistics from counts: looking after every row costs nothing.

The bound of one arm is the beta-binomial mixture of Robbins (1970), as a confidence sequence in Howard, Ramdas, McAuliffe and
Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49 (2021). For 0/1 observations of
mean p the ratio of the mixed to the true likelihood is a martingale that starts at 1, so by Ville's inequality it ever exceeds
1/alpha with a chance of at most alpha. For observations anywhere in [0, 1] it is a supermartingale, because
x -> a**x * b**(1-x) is convex and lies below its chord (cf. Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", JRSS-B 2024).
The mean need only be the conditional one: rows may depend on what came before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BISECTIONS = 40  # halves [0, 1] to below 1e-12


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean, or a difference of means, lies in [low, high] at every look at once, with the confidence asked for."""

    low: float
    high: float


def bounds(n: npt.ArrayLike, total: npt.ArrayLike, alpha: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The confidence sequence at `n` observations in [0, 1] that sum up to `total`, elementwise over arrays of one shape.

    Two-sided: the chance that it ever misses the mean is at most `alpha`. It is [0, 1] at n = 0. The mixture is Jeffreys' prior,
    Beta(1/2, 1/2), which is near the best at small rates and at large ones.
    """
    count = np.asarray(n, dtype=np.float64)
    ones = np.asarray(total, dtype=np.float64)
    zeros = count - ones
    mixed = _log_gamma(ones + 0.5) + _log_gamma(zeros + 0.5) - _log_gamma(count + 1.0) - math.log(math.pi)
    # A mean p is kept while log(mixed likelihood) - log(likelihood at p) < log(1/alpha); the likelihood is unimodal in p.
    least = mixed + np.log(alpha)
    center = np.divide(ones, count, out=np.full_like(count, 0.5), where=count > 0)
    # Both edges at once: each lies between a point outside the interval, which is the answer's side to err on, and the mean.
    inside = np.stack([center, center])
    outside = np.stack([np.zeros_like(center), np.ones_like(center)])
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(_BISECTIONS):
            middle = 0.5 * (outside + inside)
            kept = ones * np.log(middle) + zeros * np.log1p(-middle) > least
            inside = np.where(kept, middle, inside)
            outside = np.where(kept, outside, middle)
    return np.where(ones > 0, outside[0], 0.0), np.where(zeros > 0, outside[1], 1.0)


def _log_gamma(x: Floats) -> Floats:
    return np.fromiter(map(math.lgamma, x.ravel().tolist()), dtype=np.float64, count=x.size).reshape(x.shape)


def mean(n: int, total: float, alpha_low: float, alpha_high: float | None = None) -> Interval:
    """The confidence sequence of one arm: `low` and `high` of the two levels' intervals, or of the one given."""
    low, high = bounds([n, n], [total, total], [alpha_low, alpha_low if alpha_high is None else alpha_high])
    return Interval(float(low[0]), float(high[1]))


def excess(n: int, total: float, base_n: int, base_total: float, *, alpha_low: float, alpha_high: float) -> Interval:
    """How much greater one mean is than the base's: `low` wrong with a chance of at most `alpha_low`, `high` of `alpha_high`.

    Each side takes half its alpha for either arm (a union bound), so the two arms may be observed in any order and number, and
    may depend on each other.
    """
    half = [alpha_low / 2, alpha_low / 2, alpha_high / 2, alpha_high / 2]
    low, high = bounds([n, base_n, n, base_n], [total, base_total, total, base_total], half)
    return Interval(float(low[0] - high[1]), float(high[2] - low[3]))
