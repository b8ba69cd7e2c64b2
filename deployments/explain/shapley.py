"""Shapley values: what each group adds, averaged over the orders in which groups may be swapped in, and over other rows.

Sampled: a pair walks one order forward and back, from another row to the row, so that sums are exact, and effects of two groups
on each other too. Every pair takes another row in turn. Exact: all 2^G mixtures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.errors import BadInput
from deployments.explain.form import Floats
from deployments.explain.mixing import Evaluator, Mixture
from deployments.explain.result import GroupValues, nothing

MOST_EXACT = 12
# Sampling ends once the standard errors, as a vector, are this short of the attributions.
GOOD_ENOUGH = 0.01
Ranks = npt.NDArray[np.int32]


def least_evaluations(groups: int) -> int:
    """What one pair of walks costs at most, without the ends."""
    return 2 * max(groups - 1, 1)


@dataclass(frozen=True, slots=True)
class _Walks:
    """2 p walks of p pairs. `order` [2 p, G] lists groups by turn, `length` [2 p] is how many of these differ, `which` [2 p]
    names the other row."""

    order: npt.NDArray[np.intp]
    length: npt.NDArray[np.intp]
    which: npt.NDArray[np.intp]

    def ranks(self) -> Ranks:
        """When each group's turn comes, [2 p, G]."""
        ranks = np.empty(self.order.shape, np.int32)
        np.put_along_axis(ranks, self.order, np.arange(self.order.shape[1], dtype=np.int32)[None, :], axis=1)
        return ranks


def sampled(mixture: Mixture, evaluator: Evaluator, answer: float, baselines: Floats, evaluations: int, seed: int) -> GroupValues:
    """Walks until the standard errors are small or `evaluations` are used up. `baselines` [b] are the others' answers.

    Where all rows can't be walked twice, the first few are. Raises BadInput where not even one can be walked once.
    """
    size = len(mixture.groups)
    if least_evaluations(size) > evaluations:
        raise BadInput(
            f"{size:,} features need {least_evaluations(size):,} evaluations at least, and {evaluations:,} are allowed",
            where="explain.evaluations",
            remedy="allow more, or put features together in explain.groups, an image's by explain.blocks",
        )
    differing = mixture.differing()
    cost = 2 * np.maximum(differing.sum(axis=1) - 1, 0)
    rows = max(1, int(np.count_nonzero(2 * np.cumsum(cost) <= evaluations)))
    once = int(cost[:rows].sum())
    random = np.random.default_rng(seed)
    seen = _Tally(np.zeros((rows, size)), np.zeros((rows, size)), np.zeros((rows, size)), np.zeros(rows, np.int64))
    halves, cut = np.zeros(size), False
    done, rounds = 0, evaluations // once if once else 2
    while done < rounds and not cut and not seen.settled():
        # No error is known before every row was walked from twice: the first two times at once.
        times = min(2, rounds) if not done else 1
        # All at once, so that the orders are the same however fast the version is: portions follow from that.
        keys = random.random((times, rows, size))
        for pairs in _portions(times * cost[:rows], evaluator.batch_rows):
            walks = _drawn(keys[:, pairs].reshape(-1, size), differing, np.tile(pairs, times))
            found = _walked(mixture, evaluator, walks, answer, baselines)
            if found is None:
                cut = True
                break
            halves = (np.abs(found[0::2] - found[1::2]) / 2).max(axis=0)
            for again in np.split((found[0::2] + found[1::2]) / 2, times):
                seen.add(pairs, again)
        done += times
    used = seen.counts > 0
    if not used.any():
        return nothing(size, float(baselines[:rows].mean()), rows)
    errors = seen.errors() if seen.counts.sum() > 1 else halves
    return GroupValues(seen.means().mean(axis=0), errors, float(baselines[:rows][used].mean()), int(used.sum()), cut)


@dataclass(frozen=True, slots=True)
class _Tally:
    """What pairs found, by other row: the first of each, and sums of what the others are off from it, [rows, G]; how many.

    Off from the first, so that what never differs has an error of 0 and not of rounding.
    """

    first: Floats
    sums: Floats
    squares: Floats
    counts: npt.NDArray[np.int64]

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
        return bool(np.linalg.norm(self.errors()) <= GOOD_ENOUGH * np.linalg.norm(self.means().mean(axis=0)))


def _portions(cost: npt.NDArray[np.intp], batch_rows: int) -> list[npt.NDArray[np.intp]]:
    """The rows of a round in pieces of about a few batches each, so that a deadline loses little and memory is bounded."""
    places = np.cumsum(cost) // (4 * batch_rows)
    return np.split(np.arange(len(cost)), np.flatnonzero(np.diff(places)) + 1)


def _drawn(keys: Floats, differing: npt.NDArray[np.bool_], pairs: npt.NDArray[np.intp]) -> _Walks:
    """The order that random `keys` [p, G] make for each of the rows `pairs`, and its reverse; groups that don't differ come last
    in both."""
    same = ~differing[pairs]
    forward = np.argsort(np.where(same, 2.0, keys), axis=1)
    backward = np.argsort(np.where(same, 2.0, -keys), axis=1)
    order = np.stack([forward, backward], axis=1).reshape(2 * len(pairs), -1)
    length = np.repeat(differing[pairs].sum(axis=1), 2)
    return _Walks(order, length, np.repeat(pairs, 2))


def _walked(mixture: Mixture, evaluator: Evaluator, walks: _Walks, answer: float, baselines: Floats) -> Floats | None:
    """What each group added on each walk, [2 p, G]; None where the deadline passed first."""
    inner = np.maximum(walks.length - 1, 0)
    walk = np.repeat(np.arange(len(inner)), inner)
    step = np.arange(len(walk)) - np.repeat(np.cumsum(inner) - inner, inner) + 1
    ranks = walks.ranks()
    seen = np.empty(len(walk))
    for start in range(0, len(walk), evaluator.batch_rows):
        part = slice(start, start + evaluator.batch_rows)
        masks = ranks.take(walk[part], axis=0) < step[part, None]
        values = evaluator.values(mixture, masks, walks.which[walk[part]])
        if values is None:
            return None
        seen[part] = values
    # Each walk's values in a row of their own: the other row's answer, those of the mixtures, and the row's.
    path = np.full((len(inner), len(mixture.groups) + 1), answer)
    path[:, 0] = np.where(walks.length > 0, baselines[walks.which], answer)
    path[walk, step] = seen
    found = np.zeros((len(inner), len(mixture.groups)))
    np.put_along_axis(found, walks.order, np.diff(path, axis=1), axis=1)
    return found


def exact(mixture: Mixture, evaluator: Evaluator, baselines: Floats, evaluations: int) -> GroupValues:
    """All 2^G mixtures with as many other rows as the evaluations allow. Raises BadInput for more groups than 12, or than these
    allow."""
    size = len(mixture.groups)
    if size > MOST_EXACT:
        raise BadInput(
            f"exact is for up to {MOST_EXACT} features, and there are {size:,}",
            where="explain.method",
            remedy="say shapley, or put features together in explain.groups",
        )
    if 2**size > evaluations:
        raise BadInput(
            f"{size} features need {2**size:,} evaluations, and {evaluations:,} are allowed",
            where="explain.evaluations",
            remedy="allow more, say method: shapley, or put features together in explain.groups",
        )
    masks = (np.arange(2**size)[:, None] >> np.arange(size)[None, :] & 1).astype(np.bool_)
    total, used = np.zeros(2**size), 0
    for other in range(min(len(mixture), evaluations // 2**size)):
        values = evaluator.values(mixture, masks, np.full(len(masks), other))
        if values is None:
            break
        total += values
        used += 1
    if not used:
        return nothing(size, float(baselines[0]), 1)
    mean = total / used
    cut = used < min(len(mixture), evaluations // 2**size)
    return GroupValues(_weighed(mean, masks), np.zeros(size), float(mean[0]), used, cut)


def _weighed(values: Floats, masks: npt.NDArray[np.bool_]) -> Floats:
    """Shapley's mean of what each group adds to each of the sets without it, [G]."""
    size = masks.shape[1]
    taken = masks.sum(axis=1)
    ways = np.array([1.0] + [0.0] * size)
    for count in range(1, size):
        ways[count] = ways[count - 1] * count / (size - count)
    weights = ways / max(size, 1)
    found = np.zeros(size)
    for group in range(size):
        without = np.flatnonzero(~masks[:, group])
        found[group] = float((weights[taken[without]] * (values[without | 1 << group] - values[without])).sum())
    return found
