"""What walks found, added up, and how sure it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.explain.features import Places
from deployments.explain.form import Floats

# Sampling ends once the standard errors, as a vector, are this short of the attributions.
GOOD_ENOUGH = 0.01
MOST = 1 << 40


@dataclass(frozen=True, slots=True)
class PairTally:
    """What pairs found, by other row: the first of each, and sums of what the others are off from it, [rows, G]; how many.

    Off from the first, so that what never differs has an error of 0 and not of rounding.
    """

    first: Floats
    sums: Floats
    squares: Floats
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: int, groups: int) -> PairTally:
        """Of so many other rows and groups, with nothing in it."""
        size = rows, groups
        return cls(np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(rows, np.int64))

    def add(self, rows: Places, found: Floats) -> None:
        """The values of t pairs for each of n other rows, [t, n, G]."""
        new = self.counts[rows] == 0
        self.first[rows[new]] = found[0, new]
        off = found - self.first[rows]
        self.sums[rows] += off.sum(axis=0)
        self.squares[rows] += (off**2).sum(axis=0)
        self.counts[rows] += len(found)

    def means(self) -> Floats:
        """The mean of each other row that was walked from, [r, G]."""
        used = self.counts > 0
        return self.first[used] + self.sums[used] / self.counts[used, None]

    def errors(self) -> Floats:
        """The standard error of the mean over other rows of their means, [G].

        From how pairs of the same row differ; where no row has two pairs, from how rows do, which is too much.
        """
        counts = self.counts[self.counts > 0]
        rows, total = len(counts), int(counts.sum())
        if total == rows:
            spread = self.means().std(axis=0, ddof=1) if rows > 1 else np.zeros(self.sums.shape[1])
            return np.asarray(spread / np.sqrt(rows))
        squares = self.squares - self.sums**2 / np.maximum(self.counts, 1)[:, None]
        within = np.maximum(squares, 0).sum(axis=0) / (total - rows)
        return np.asarray(np.sqrt(within * (1 / counts).sum()) / rows)

    def rounds_wanted(self) -> int:
        """How many walks from each row make more of them change little, as far as these tell, two at least: errors fall with the
        root of their number. No more than were made where they suffice."""
        made = int(self.counts.min())
        if made < 2:
            return 2
        error, length = float(np.linalg.norm(self.errors())), float(np.linalg.norm(self.means().mean(axis=0)))
        if error <= GOOD_ENOUGH * length:
            return made
        return int(min(max(made * (error / (GOOD_ENOUGH * length)) ** 2, made + 1), MOST)) if length else MOST
