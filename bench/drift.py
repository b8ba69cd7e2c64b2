"""`python -m bench.drift [--quick] [--json]`: how often drift is alarmed without any, and how many rows it takes where there is some.

The product's own code does all of it: a profile is made of rows, others are counted in its bins, and e-detectors decide. A year and
the alarm that it may bring are scaled down to 1,000 ticks and a chance of 10 %, and there is no margin, so that the profile's own
error is all that lies between rows and null. Then the digits, as they are and shifted, blurred and inverted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from rich.console import Console

from bench.figures import Figure, show
from cluster.drift.detectors import AlarmBudget, Detectors
from cluster.drift.section import Drift
from cluster.drift.tolerance import tolerated
from cluster.signature import Signature
from deployments.drift.version_counting import VersionCounting
from deployments.profiles.making import make_profile

Rows = npt.NDArray[np.float32]

TICKS, CHANCE = 1000, 0.1
PROFILE_ROWS, ROWS_A_TICK = 2000, 50
SEED = 20261130


class Dependence(StrEnum):
    """What rows have to do with each other."""

    NONE = "independent"
    FEATURES = "features alike"
    """All features of a row move together."""
    REPEATED = "repeated"
    """Each row comes as often as groups may be large."""
    MARKOV = "markov"
    """A row is like the one before it with a chance of one half."""


# Of each: how many rows count as one, and the margin. A chain's rows lean to the one before, so that no null without a margin is true.
ALIKE = {Dependence.NONE: (1, 0.0), Dependence.FEATURES: (1, 0.0), Dependence.REPEATED: (10, 0.0), Dependence.MARKOV: (10, 0.05)}


class Counted:
    """Rows of one input `x` and no output that says anything, counted as a version's are."""

    def __init__(self, profile: Rows) -> None:
        """`profile` is [n, f]."""
        features = profile.shape[1]
        spec = {"name": "x", "datatype": "FP32", "shape": [-1, features]}
        signature = Signature.model_validate({"inputs": [spec], "outputs": [{**spec, "name": "y", "shape": [-1, 1]}]})
        made = make_profile(signature, {"x": profile}, {"y": np.zeros((len(profile), 1), np.float32)}, leave_out=("y",))
        self._counting = VersionCounting("bench", 1, made)
        self.reference = self._counting.reference

    def detectors(self, budget: AlarmBudget, margin: float, alike: int) -> Detectors:
        """Those that watch it."""
        return Detectors(self.reference, margin, budget, alike)

    def tick(self, detectors: Detectors, rows: Rows) -> bool:
        """Whether these rows raise an alarm."""
        places = np.arange(len(rows))
        counts = self._counting.count(self._counting.copied({"x": rows}, {}, places, places, places))
        return bool(detectors.tick(counts.rows, counts.hits))


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows without drift come from: normal ones, f features, fixed by the seed."""

    features: int
    dependence: Dependence
    seed: int

    def profile(self) -> Rows:
        """Independent rows, as a held-out set has."""
        return self._rng(0).normal(size=(PROFILE_ROWS, self.features)).astype(np.float32)

    def ticks(self) -> Iterator[Rows]:
        """Rows of one tick after the other."""
        rng, last = self._rng(1), np.zeros(self.features, np.float32)
        for _ in range(TICKS):
            rows = self._tick(rng, last)
            last = rows[-1]
            yield rows

    def _tick(self, rng: np.random.Generator, last: Rows) -> Rows:
        match self.dependence:
            case Dependence.NONE:
                return rng.normal(size=(ROWS_A_TICK, self.features)).astype(np.float32)
            case Dependence.FEATURES:
                return np.repeat(rng.normal(size=(ROWS_A_TICK, 1)), self.features, axis=1).astype(np.float32)
            case Dependence.REPEATED:
                times = ALIKE[Dependence.REPEATED][0]
                return np.repeat(rng.normal(size=(ROWS_A_TICK // times, self.features)), times, axis=0).astype(np.float32)
            case Dependence.MARKOV:
                fresh = rng.normal(size=(ROWS_A_TICK, self.features)).astype(np.float32)
                stays = rng.random(ROWS_A_TICK) < 0.5  # noqa: PLR2004
                took = np.maximum.accumulate(np.where(stays, -1, np.arange(ROWS_A_TICK)))
                return np.where(took[:, None] < 0, last, fresh[took])

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.features, part))


def false_alarms(features: int, dependence: Dependence, runs: int) -> float:
    """The share of runs that raise an alarm though nothing changed; each has a profile of its own."""
    alike, margin = ALIKE[dependence]
    budget, alarmed = AlarmBudget.over(TICKS, CHANCE), 0
    for run in range(runs):
        source = Source(features, dependence, SEED + run)
        counted = Counted(source.profile())
        detectors = counted.detectors(budget, margin, alike)
        alarmed += any(counted.tick(detectors, rows) for rows in source.ticks())
    return alarmed / runs


def delay(features: int, shift: float, runs: int) -> tuple[float, float]:
    """Rows until the alarm, as a median over runs, where the first feature's mean moves by `shift`; and ln(c m) by the largest
    divergence of any rate from its null: what a detector that knew the alternative would take."""
    budget, taken, wanted = AlarmBudget.over(TICKS, CHANCE), [], []
    for run in range(runs):
        source = Source(features, Dependence.NONE, SEED + run)
        counted = Counted(source.profile())
        detectors = counted.detectors(budget, 0.0, 1)
        low, high = tolerated(counted.reference, 0.0, budget.delta)
        rng = np.random.default_rng((SEED, run))

        def drifted(rows: int, rng: np.random.Generator = rng) -> Rows:
            moved = rng.normal(size=(rows, features)).astype(np.float32)
            moved[:, 0] += shift
            return moved

        share = counted.shares(drifted(20_000))
        best = float(np.max([_divergence(share, low)[share < low].max(initial=0), _divergence(share, high)[share > high].max(initial=0)]))
        wanted.append((np.log(budget.threshold) + np.log(detectors.count)) / best)
        rows = 0
        while True:
            rows += 10
            if counted.tick(detectors, drifted(10)):
                break
        taken.append(rows)
    return float(np.median(taken)), float(np.median(wanted))
