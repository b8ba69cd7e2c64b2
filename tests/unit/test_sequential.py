"""The statistics, by simulation with fixed seeds and a look after every observation."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from cluster.sequential import Interval, bounds, excess, mean

ALPHA = 0.05
RUNS = 200
LOOKS = 1000


def _sums(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    return np.cumsum(values, axis=1, dtype=np.float64)


def _looks(rows: int, looks: int) -> npt.NDArray[np.float64]:
    return np.broadcast_to(np.arange(1, looks + 1, dtype=np.float64), (rows, looks))


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.2, 0.5])
def test_equal_versions_are_told_apart_at_most_alpha_of_the_time(rate: float) -> None:
    """The strictest margin, 0: a wrong rollback at any of 1,000 looks, in 200 rollouts."""
    random = np.random.default_rng(20261123)
    n = _looks(RUNS, LOOKS)
    candidate, stable = (_sums(random.random((RUNS, LOOKS)) < rate) for _ in range(2))
    low = bounds(n, candidate, ALPHA / 2)[0] - bounds(n, stable, ALPHA / 2)[1]
    assert (low > 0).any(axis=1).mean() <= ALPHA


@pytest.mark.parametrize("kind", ["binary", "beta", "two-point"])
def test_the_interval_misses_the_mean_at_most_alpha_of_the_time(kind: str) -> None:
    """Also for observations that are not 0 or 1."""
    random = np.random.default_rng(7)
    draws = {
        "binary": lambda: random.random((RUNS, LOOKS)) < 0.1,
        "beta": lambda: random.beta(1.0, 9.0, (RUNS, LOOKS)),
        "two-point": lambda: np.where(random.random((RUNS, LOOKS)) < 0.125, 0.8, 0.0),
    }
    low, high = bounds(_looks(RUNS, LOOKS), _sums(draws[kind]()), ALPHA)
    missed = (low > 0.1 + 1e-12) | (high < 0.1 - 1e-12)
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
    runs = 300
    candidate = random.binomial(rows, base + 5 * margin, runs).astype(np.float64)
    stable = random.binomial(rows, base, runs).astype(np.float64)
    n = np.full(runs, float(rows))
    # Only the last look: earlier ones can but add to what is caught.
    low = bounds(n, candidate, alpha / 2)[0] - bounds(n, stable, alpha / 2)[1]
    assert (low > margin).mean() >= 0.9


def test_a_flawless_version_passes_when_the_closed_form_says_so() -> None:
    """With no errors at all, high is where (1 - high)**n * sqrt(pi n) = alpha, up to Stirling's 1/(8n)."""
    n, alpha = 800, 0.025
    expected = 1 - (alpha / math.sqrt(math.pi * n)) ** (1 / n)
    assert mean(n, 0, alpha).high == pytest.approx(expected, rel=1e-3)
    assert excess(n, 0, n, 0, alpha_low=alpha, alpha_high=2 * alpha).high < 0.01


def test_the_interval_holds_the_observed_mean_and_narrows() -> None:
    assert mean(0, 0, ALPHA) == Interval(0.0, 1.0)
    last = 1.0
    for n in (1, 10, 1_000, 10**6, 10**9):
        interval = mean(n, n * 0.3, ALPHA)
        assert 0.0 <= interval.low < 0.3 < interval.high <= 1.0
        assert interval.high - interval.low < last
        last = interval.high - interval.low
    assert last < 2e-4
    assert mean(5, 5, ALPHA).high == 1.0
    assert mean(5, 0, ALPHA).low == 0.0


def test_a_smaller_alpha_gives_a_wider_interval() -> None:
    wide, narrow = mean(500, 20, 0.001), mean(500, 20, 0.1)
    assert wide.low < narrow.low < narrow.high < wide.high
