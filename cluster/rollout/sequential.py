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

_BISECTIONS = 40  # halves [0, 1] to below 1e-12


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean, or a difference of means, lies in [low, high] at every look at once, with the confidence asked for."""

    low: float
    high: float


def lowest(n: int, total: float, alpha: float) -> float:
    """The lower end of the two-sided confidence sequence at `n` observations in [0, 1] that sum up to `total`; 0 at n = 0.

    The mixture is Jeffreys' prior, Beta(1/2, 1/2), which does well at small rates and at large ones.
    """
    if total <= 0:
        return 0.0
    rest = n - total
    mixed = math.lgamma(total + 0.5) + math.lgamma(rest + 0.5) - math.lgamma(n + 1.0) - math.log(math.pi)
    # A mean p is kept while log(mixed likelihood) - log(likelihood at p) < log(1/alpha); the likelihood rises up to total / n.
    least = mixed + math.log(alpha)
    outside, inside = 0.0, total / n
    for _ in range(_BISECTIONS):
        middle = 0.5 * (outside + inside)
        if middle > 0 and total * math.log(middle) + rest * math.log1p(-middle) > least:
            inside = middle
        else:
            outside = middle
    return outside  # errs to the outside


def highest(n: int, total: float, alpha: float) -> float:
    """The upper end of the same sequence; 1 at n = 0."""
    return 1.0 - lowest(n, n - total, alpha)


def mean(n: int, total: float, alpha_low: float, alpha_high: float) -> Interval:
    """The confidence sequence of one arm: `low` is ever above the mean with a chance of at most `alpha_low`, `high` below it of
    `alpha_high`.
    """
    return Interval(lowest(n, total, alpha_low), highest(n, total, alpha_high))


def excess(n: int, total: float, base_n: int, base_total: float, *, alpha_low: float, alpha_high: float) -> Interval:
    """How much greater one mean is than the base's: `low` wrong with a chance of at most `alpha_low`, `high` of `alpha_high`.

    Each side takes half its alpha for either arm (a union bound), so the two arms may be observed in any order and number, and
    may depend on each other.
    """
    low = lowest(n, total, alpha_low / 2) - highest(base_n, base_total, alpha_low / 2)
    high = highest(n, total, alpha_high / 2) - lowest(base_n, base_total, alpha_high / 2)
    return Interval(low, high)
