"""The statistics, by simulation with fixed seeds and a look after every observation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from cluster.rollout.sequential import Interval, excess, highest, lowest, mean

ALPHA = 0.05
RUNS = 200
LOOKS = 1000


Floats = npt.NDArray[np.float64]


def _watched(values: npt.NDArray[np.generic], alpha: float, bound: Callable[[int, float, float], float]) -> Floats:
    """The bound after each observation of each run; shape as `values`. Each count and sum is worked out once."""
    sums = np.cumsum(values, axis=1, dtype=np.float64)
    looks = np.broadcast_to(np.arange(1, sums.shape[1] + 1, dtype=np.float64), sums.shape)
    pairs, place = np.unique(np.stack([looks.ravel(), sums.ravel()]), axis=1, return_inverse=True)
    known = np.array([bound(int(n), total, alpha) for n, total in pairs.T.tolist()])
    return known[place].reshape(sums.shape)


@pytest.mark.proof
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.2, 0.5])
def test_equal_versions_are_told_apart_at_most_alpha_of_the_time(rate: float) -> None:
    """The strictest margin, 0: a wrong rollback at any of 1,000 looks, in 200 rollouts."""
    random = np.random.default_rng(20261123)
    candidate, stable = (random.random((RUNS, LOOKS)) < rate for _ in range(2))
    low = _watched(candidate, ALPHA / 2, lowest) - _watched(stable, ALPHA / 2, highest)
    assert (low > 0).any(axis=1).mean() <= ALPHA


@pytest.mark.proof
@pytest.mark.parametrize("values", [(0.0, 1.0), (0.0, 0.5), (0.0, 0.25, 0.5, 1.0)])
def test_the_interval_misses_the_mean_at_most_alpha_of_the_time(values: tuple[float, ...]) -> None:
    """Also for observations that are not 0 or 1."""
    random = np.random.default_rng(7)
    chance = 0.1 * (len(values) - 1) / sum(values)
    shares = [1 - chance, *[chance / (len(values) - 1)] * (len(values) - 1)]
    drawn = random.choice(values, (RUNS, LOOKS), p=shares)
    missed = (_watched(drawn, ALPHA, lowest) > 0.1 + 1e-12) | (_watched(drawn, ALPHA, highest) < 0.1 - 1e-12)
    # For 0/1 the test martingale is exact, so the share is near alpha: three deviations of 200 runs are allowed for.
    assert missed.any(axis=1).mean() <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def _theory(base: float, worse: float, margin: float, alpha: float) -> int:
    """Rows an arm after which the proof stands unless an arm strays by more than two standard deviations.

    The half width of an arm of rate p is near sqrt(2 p (1-p) (log(2/alpha) + log(pi n)/2) / n) (the mixture's price is the
    logarithm of n), so with the two deviations the arms part where the sum over both arms of that and of 2 sqrt(p (1-p) / n)
    is the difference less the margin. Found by doubling, then by halves; the bounds stand in for the approximation.
    """

    def proven(n: int) -> bool:
        bad = max(n * worse - 2 * math.sqrt(n * worse * (1 - worse)), 0.0)
        good = min(n * base + 2 * math.sqrt(n * base * (1 - base)), n)
        return excess(n, bad, n, good, alpha_low=alpha, alpha_high=alpha).low > margin

    above = 1
    while not proven(above):
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (below, middle) if proven(middle) else (middle, above)
    return above


@pytest.mark.parametrize(("base", "most"), [(0.0, 1_200), (0.01, 3_000), (0.2, 20_000)])
def test_a_version_worse_by_five_margins_is_caught_within_what_theory_says(base: float, most: int) -> None:
    """Each arm strays by more than two deviations with a chance of about 2.5 %, so 90 % and more are caught by then."""
    margin, alpha = 0.01, ALPHA / 3  # as a check of a plan with three steps gets it
    rows = _theory(base, base + 5 * margin, margin, alpha)
    assert rows <= most
    random = np.random.default_rng(11)
    candidate = random.binomial(rows, base + 5 * margin, 300).tolist()
    stable = random.binomial(rows, base, 300).tolist()
    # Only the last look: earlier ones can but add to what is caught.
    lows = [
        excess(rows, bad, rows, good, alpha_low=alpha, alpha_high=alpha).low for bad, good in zip(candidate, stable, strict=True)
    ]
    assert np.mean(np.array(lows) > margin) >= 0.9


def test_a_flawless_version_passes_when_the_closed_form_says_so() -> None:
    """With no errors at all, high is where (1 - high)**n * sqrt(pi n) = alpha, up to Stirling's 1/(8n)."""
    n, alpha = 800, 0.025
    expected = 1 - (alpha / math.sqrt(math.pi * n)) ** (1 / n)
    assert highest(n, 0, alpha) == pytest.approx(expected, rel=1e-3)
    assert excess(n, 0, n, 0, alpha_low=alpha, alpha_high=2 * alpha).high < 0.01


def test_the_interval_holds_the_observed_mean_and_narrows() -> None:
    assert mean(0, 0, ALPHA, ALPHA) == Interval(0.0, 1.0)
    last = 1.0
    for n in (1, 10, 1_000, 10**6, 10**9):
        interval = mean(n, n * 0.3, ALPHA, ALPHA)
        assert 0.0 <= interval.low < 0.3 < interval.high <= 1.0
        assert interval.high - interval.low < last
        last = interval.high - interval.low
    assert last < 2e-4
    assert highest(5, 5, ALPHA) == 1.0
    assert lowest(5, 0, ALPHA) == 0.0


def test_a_smaller_alpha_gives_a_wider_interval() -> None:
    wide, narrow = mean(500, 20, 0.001, 0.001), mean(500, 20, 0.1, 0.1)
    assert wide.low < narrow.low < narrow.high < wide.high
