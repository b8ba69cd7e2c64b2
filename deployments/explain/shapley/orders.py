"""In which orders groups are swapped in: random ones, spread evenly over the turns that a group may have. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.explain.features import Places
from deployments.explain.form import Floats

# So many rounds of keys are spread over each other's gaps; then that begins again, since they are kept for it.
SPREAD_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class Walks:
    """w walks, from another row to the row. `order` [w, G] lists groups by turn, those that don't differ last; `length` [w] is
    how many differ, `which` [w] names the other row."""

    order: Places
    length: Places
    which: Places


def spread_keys(random: np.random.Generator, rows: int, groups: int) -> Iterator[Floats]:
    """Round by round a key for each group of each other row, [rows, groups]: their order is the order of the groups.

    Each round's keys are uniform over 0 to 1 and independent of each other. Those of one group and row fill each other's gaps
    over the rounds, where a key and its mirror image are the same, since pairs walk both. So a group's turn soon comes early and
    late as often as it should, which chance alone does only in the long run: up to a fifth less variance, for nothing.
    """
    while True:
        # The first ones of a group are spread over the rows.
        strata = random.permuted(np.repeat(np.arange(rows)[None, :, None], groups, axis=2), axis=1)
        known = (strata + random.random(strata.shape)) / rows
        yield _mirrored(random, known[0])
        while (count := len(known)) < SPREAD_ROUNDS:
            # Each of these cells has its key in one half; the other halves are the next ones', in a random order.
            empty = (known * (2 * count)).astype(np.int64) ^ 1
            new: list[Floats] = []
            for cells in random.permuted(empty, axis=0) if count > 1 else empty:
                new.append((cells + random.random(cells.shape)) / (2 * count))
                yield _mirrored(random, new[-1])
            known = np.concatenate([known, np.stack(new)])


def _mirrored(random: np.random.Generator, keys: Floats) -> Floats:
    """Each key, folded to 0 to 1/2, or as likely its mirror image."""
    halved = keys / 2
    return np.where(random.integers(0, 2, keys.shape, dtype=np.bool_), halved, 1 - halved)


def walks_of(keys: Floats, differing: npt.NDArray[np.bool_], which: Places) -> Walks:
    """The order that `keys` [p, G] make for each of the other rows `which` [p], and its reverse behind it: 2 p walks.

    `differing` [b, G] says which groups of each other row differ; those that don't come last in both.
    """
    both = np.repeat(which, 2)
    unlike = differing[both]
    turns = np.repeat(keys, 2, axis=0)
    np.negative(turns[1::2], out=turns[1::2])
    turns[~unlike] = 2.0
    return Walks(np.argsort(turns, axis=1), np.count_nonzero(unlike, axis=1), both)
