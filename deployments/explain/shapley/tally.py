"""What walks found, added up, and how sure it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.explain.form import Floats

# Sampling ends once the standard errors, as a vector, are this short of the attributions.
GOOD_ENOUGH = 0.01


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

    def add(self, rows: npt.NDArray[np.intp], found: Floats) -> None:
        """One pair's values [n, G] for each of n other rows."""
        new = self.counts[rows] == 0
        self.first[rows[new]] = found[new]
        off = found - self.first[rows]
        self.sums[rows] += off
        self.squares[rows] += off**2
        self.counts[rows] += 1

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

    def settled(self) -> bool:
        """Whether more walks would change little: known only once every row was walked from twice."""
        if self.counts.min() < 2:
            return False
        error, length = self._lengths()
        return error <= GOOD_ENOUGH * length

    def rounds_wanted(self) -> int:
        """How many walks from each row may settle it, as far as these tell: errors fall with the root of their number."""
        error, length = self._lengths()
        return int(min(float(self.counts.max()) * (error / (GOOD_ENOUGH * length)) ** 2, 1e9)) if length else int(1e9)

    def _lengths(self) -> tuple[float, float]:
        return float(np.linalg.norm(self.errors())), float(np.linalg.norm(self.means().mean(axis=0)))
