"""Watched rows for tests of the controller's half: a reference made of numbers, and reports of more of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cluster.drift.counts import (
    EDGE_ROWS,
    HISTOGRAM_BINS,
    DriftReference,
    DriftReport,
    WatchedFeature,
    reference_digest,
)
from cluster.drift.kinds import KINDS, RateKind

Rows = npt.NDArray[np.float64]
# The shares of the profile's rows at which cuts lie.
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


class NumberRows:
    """f features of numbers, each watched at nine cuts and for being missing. The first `answers` of them are outputs."""

    def __init__(self, profile: Rows, *, answers: int = 0) -> None:
        """`profile` is [n, f]."""
        n, f = profile.shape
        self._cuts = np.nanquantile(profile, SHARES, axis=0).T  # [f, 9]
        self._edges = np.nanquantile(profile, (0.001, 0.999), axis=0)
        rates = len(SHARES) + 1
        value = [KINDS.index(RateKind.OUTPUT if place < answers else RateKind.INPUT) for place in range(f)]
        kind = np.array([[one] * len(SHARES) + [KINDS.index(RateKind.MISSING)] for one in value])
        cut = np.concatenate([self._cuts, np.full((f, 1), np.nan)], axis=1)
        picked = np.tile([*[EDGE_ROWS] * len(SHARES), 0], (f, 1))
        _, hits, histogram = self.counted(profile)
        names = [WatchedFeature(f"x[{place}]", place < answers, n, ("low", "high")) for place in range(f)]
        self.reference = DriftReference(
            features=tuple(names),
            feature=np.repeat(np.arange(f), rates),
            kind=kind.ravel().astype(np.int64),
            cut=cut.ravel(),
            category=("",) * (f * rates),
            hits=hits,
            picked=picked.ravel().astype(np.int64),
            histogram=histogram,
        )
        self.digest = reference_digest(self.reference)

    def counted(self, rows: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows, hits and histogram of [n, f]."""
        n, f = rows.shape
        below = (rows[:, :, None] <= self._cuts).sum(axis=0)
        hits = np.concatenate([below, np.isnan(rows).sum(axis=0)[:, None]], axis=1)
        low, high = self._edges
        places = np.clip((rows - low) / np.maximum(high - low, 1e-12) * HISTOGRAM_BINS, 0, HISTOGRAM_BINS - 1)
        bins = np.nan_to_num(places).astype(np.int64) + HISTOGRAM_BINS * np.arange(f)
        histogram = np.bincount(bins.ravel(), minlength=f * HISTOGRAM_BINS).reshape(f, HISTOGRAM_BINS)
        return np.full(f, n), hits.ravel(), histogram

    def report(self, rows: Rows, sequence: int, *, version: int = 1, source: str = "scorer", known: bool = False) -> DriftReport:
        """What a scorer tells of [n, f]; with the reference, unless that is `known`."""
        counted = self.counted(rows)
        reference = None if known else self.reference
        return DriftReport(source, sequence, "digits", version, self.digest, *counted, reference=reference)


def normal(rng: np.random.Generator, rows: int, features: int, means: Sequence[float] = (0.0,)) -> Rows:
    """[rows, features] around means, the last of which is that of all further ones."""
    told = [*means[:features], *[means[-1]] * (features - len(means))]
    return rng.normal(np.array(told), 1.0, size=(rows, features))
