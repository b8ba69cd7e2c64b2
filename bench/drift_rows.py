"""Rows with and without drift through the product's own code: a profile is made of some, others are counted in its bins, and
e-detectors decide. A year and the alarm that it may bring are scaled down to 1,000 ticks and a chance of 10 %.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from cluster.drift.counts import DriftReference
from cluster.drift.detectors import AlarmBudget, Detectors
from cluster.drift.section import Drift
from cluster.drift.tolerance import Floats, tolerated
from cluster.signature import Signature
from deployments.drift.version_counting import VersionCounting, VersionCounts
from deployments.profiles.making import make_profile

Rows = npt.NDArray[np.float32]
Scores = Callable[[Rows], Rows]

TICKS, CHANCE = 1000, 0.1
PROFILE_ROWS, ROWS_A_TICK = 2000, 50
STAYS = 0.5
SEED = 20261130


class Dependence(StrEnum):
    """What rows have to do with each other."""

    NONE = "independent"
    """Nothing."""
    EDGE = "at the edge"
    """Nothing; and the profile's shares are known exactly, so that nothing lies between the rows and the null."""
    FEATURES = "features alike"
    """All features of a row are one, as they were in the profile."""
    REPEATED = "repeated"
    """Each row comes ten times."""
    MARKOV = "markov"
    """A row is the one before it with a chance of one half."""


# Of each: how many rows count as one, and the margin. A chain's rows lean to the one before: without a margin no null is true.
ALIKE = {
    Dependence.NONE: (1, 0.0),
    Dependence.EDGE: (1, 0.0),
    Dependence.FEATURES: (1, 0.0),
    Dependence.REPEATED: (10, 0.0),
    Dependence.MARKOV: (10, 0.05),
}


class CountedRows:
    """Rows of one input `x` and one output `y`, counted in the bins of their profile."""

    def __init__(self, inputs: Rows, outputs: Rows | None = None) -> None:
        """The profile's rows, [n, f] and [n, g]; without outputs the version answers nothing that is watched."""
        answers = np.zeros((len(inputs), 1), np.float32) if outputs is None else outputs
        signature = Signature.model_validate({"inputs": [_spec("x", inputs)], "outputs": [_spec("y", answers)]})
        left_out = ("y",) if outputs is None else ()
        profile = make_profile(signature, {"x": inputs}, {"y": answers}, leave_out=left_out)
        self._counting = VersionCounting("simulated", 1, profile)
        self.reference = self._counting.reference

    def counts(self, inputs: Rows, outputs: Rows | None = None) -> VersionCounts:
        """What these rows come to."""
        places = np.arange(len(inputs))
        answers = {} if outputs is None else {"y": outputs}
        return self._counting.count(self._counting.copied({"x": inputs}, answers, places, places, places))

    def shares(self, inputs: Rows) -> Floats:
        """The share of these rows of which each rate is true, [r]."""
        found: Floats = self.counts(inputs).hits / len(inputs)
        return found


def _spec(name: str, values: Rows) -> dict[str, object]:
    return {"name": name, "datatype": "FP32", "shape": [-1, values.shape[1]]}


@dataclass(frozen=True, slots=True)
class Steady:
    """Rows whose source never changes: normal ones of f features, fixed by the seed."""

    features: int
    dependence: Dependence
    seed: int

    def profile(self) -> Rows:
        """Independent rows, as a held-out set has. What features have to do with each other is no different later: that would be
        a change, which rows as wholes show."""
        return self._independent(self._rng(0), PROFILE_ROWS).astype(np.float32)

    def ticks(self) -> Iterator[Rows]:
        """The rows of one tick after the other."""
        rng, last = self._rng(1), np.zeros(self.features, np.float32)
        for _ in range(TICKS):
            rows = self._tick(rng, last).astype(np.float32)
            last = rows[-1]
            yield rows

    def _tick(self, rng: np.random.Generator, last: Rows) -> npt.NDArray[np.floating]:
        whole = (ROWS_A_TICK, self.features)
        match self.dependence:
            case Dependence.NONE | Dependence.EDGE | Dependence.FEATURES:
                return self._independent(rng, ROWS_A_TICK)
            case Dependence.REPEATED:
                times = ALIKE[Dependence.REPEATED][0]
                return np.repeat(rng.normal(size=(ROWS_A_TICK // times, self.features)), times, axis=0)
            case Dependence.MARKOV:
                fresh, stays = rng.normal(size=whole), rng.random(ROWS_A_TICK) < STAYS
                took = np.maximum.accumulate(np.where(stays, -1, np.arange(ROWS_A_TICK)))
                return np.where(took[:, None] < 0, last, fresh[took])

    def _independent(self, rng: np.random.Generator, rows: int) -> npt.NDArray[np.floating]:
        if self.dependence is Dependence.FEATURES:
            return np.repeat(rng.normal(size=(rows, 1)), self.features, axis=1)
        return rng.normal(size=(rows, self.features))

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.features, part))


def false_alarms(features: int, dependence: Dependence, runs: int) -> float:
    """The share of runs that raise an alarm though nothing changed; each run has a profile of its own."""
    alike, margin = ALIKE[dependence]
    budget, alarmed = AlarmBudget.over(TICKS, CHANCE), 0
    for run in range(runs):
        source = Steady(features, dependence, SEED + run)
        counted = CountedRows(source.profile())
        reference = _exact(counted.reference) if dependence is Dependence.EDGE else counted.reference
        detectors = Detectors(reference, margin, budget, alike)
        alarmed += any(_tick(detectors, counted.counts(rows)) for rows in source.ticks())
    return alarmed / runs


def _exact(reference: DriftReference) -> DriftReference:
    """As of a profile of so many normal rows that its shares have no error left; of rates without a cut nothing is known."""
    rows, cut = 10**15, np.isfinite(reference.cut)
    hits = [round(NormalDist().cdf(value) * rows) if known else 0 for value, known in zip(reference.cut, cut, strict=True)]
    features = tuple(replace(feature, rows=rows) for feature in reference.features)
    picked = np.where(cut, reference.picked, rows)
    return replace(reference, features=features, hits=np.array(hits, np.int64), picked=picked)


def rows_to_alarm(features: int, shift: float, runs: int) -> tuple[float, float]:
    """Rows until the alarm where the first feature's mean has moved by so many standard deviations, and ln(c m) by the divergence
    of the rate that is farthest from its null: what one that knew where to look would take. Medians over the runs."""
    budget, taken, known = AlarmBudget.over(TICKS, CHANCE), list[float](), list[float]()
    for run in range(runs):
        counted = CountedRows(Steady(features, Dependence.NONE, SEED + run).profile())
        detectors = Detectors(counted.reference, 0.0, budget)
        moved = functools.partial(_moved, np.random.default_rng((SEED, run, features)), features, shift)
        shares = counted.shares(moved(2000))
        low, high = tolerated(counted.reference, 0.0, budget.delta)
        below, above = _divergence(shares, low)[shares < low], _divergence(shares, high)[shares > high]
        farthest = max(below.max(initial=0), above.max(initial=0))
        known.append((math.log(budget.threshold) + math.log(detectors.count)) / farthest)
        rows = _until_alarm(detectors, functools.partial(_counts, counted, moved), 10, 1_000_000)
        taken.append(math.inf if rows is None else rows)
    return float(np.median(taken)), float(np.median(known))


def _counts(counted: CountedRows, drawn: Callable[[int], Rows], rows: int) -> VersionCounts:
    return counted.counts(drawn(rows))


def _moved(rng: np.random.Generator, features: int, shift: float, rows: int) -> Rows:
    found = rng.normal(size=(rows, features)).astype(np.float32)
    found[:, 0] += shift
    return found


def digits_to_alarm(spoil: Callable[[Rows], Rows], most: int) -> int | None:
    """Rows of handwritten digits, spoiled, until the first alarm with the section's defaults; None where `most` bring none.

    The profile is that of one half of scikit-learn's digits and of the answers of a model that a third of all was fitted to; the
    others are drawn, again and again, and scored.
    """
    profile, others, answers = _digits()
    rng = np.random.default_rng(SEED)

    def drawn(rows: int) -> Rows:
        return spoil(others[rng.integers(len(others), size=rows)])

    return rows_until_alarm(CountedRows(profile, answers(profile)), drawn, answers, most)


def rows_until_alarm(counted: CountedRows, drawn: Callable[[int], Rows], answers: Scores, most: int) -> int | None:
    """Rows drawn and scored until the first alarm with the section's defaults; None where `most` bring none."""
    drift = Drift()
    budget = AlarmBudget.a_year(drift.false_alarms_a_year)
    detectors = Detectors(counted.reference, drift.margin, budget, drift.alike)

    def counts(rows: int) -> VersionCounts:
        taken = drawn(rows)
        return counted.counts(taken, answers(taken))

    return _until_alarm(detectors, counts, 20, most)


@functools.cache
def _digits() -> tuple[Rows, Rows, Scores]:
    """The profile's digits, the others, and what answers."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    data = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.data))
    pixels, truth = (data.data[order] / 16).astype(np.float32), data.target[order]
    third = len(pixels) // 3
    model = LogisticRegression(max_iter=2000).fit(pixels[:third], truth[:third])

    def answers(rows: Rows) -> Rows:
        found: Rows = model.predict_proba(rows).astype(np.float32)
        return found

    rest = pixels[third:]
    return rest[::2], rest[1::2], answers


def shifted(rows: Rows) -> Rows:
    """Each picture a pixel to the right."""
    return np.roll(_pictures(rows), 1, axis=2).reshape(len(rows), -1)


def blurred(rows: Rows) -> Rows:
    """Each pixel the mean of itself and its neighbours."""
    pictures = np.pad(_pictures(rows), ((0, 0), (1, 1), (1, 1)), mode="edge")
    parts = np.stack([pictures[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)])
    found: Rows = parts.mean(axis=0).astype(np.float32).reshape(len(rows), -1)
    return found


def inverted(rows: Rows) -> Rows:
    """Black for white."""
    return 1 - rows


def as_they_are(rows: Rows) -> Rows:
    """No drift."""
    return rows


def _pictures(rows: Rows) -> Rows:
    return rows.reshape(len(rows), 8, 8)


def _until_alarm(detectors: Detectors, drawn: Callable[[int], VersionCounts], step: int, most: int) -> int | None:
    for rows in range(step, most + 1, step):
        if _tick(detectors, drawn(step)):
            return rows
    return None


def _tick(detectors: Detectors, counts: VersionCounts) -> bool:
    return bool(detectors.tick(counts.rows, counts.hits))


def _divergence(seen: Floats, share: Floats) -> Floats:
    """Kullback-Leibler of two shares."""
    with np.errstate(divide="ignore", invalid="ignore"):
        hit = np.where(seen > 0, seen * np.log(seen / share), 0.0)
        return hit + np.where(seen < 1, (1 - seen) * np.log((1 - seen) / (1 - share)), 0.0)
