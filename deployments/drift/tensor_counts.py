"""One tensor's rows in the bins of its profile: how often each rate was so. Pure.

Rates are columns of a table with a line for each feature; those that a feature does not have are masked, so that all of a tensor
is counted by a few numpy expressions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cluster.drift.counts import EDGE_ROWS, HISTOGRAM_BINS, WatchedFeature
from cluster.drift.kinds import KINDS, RateKind
from cluster.signature import Datatype
from deployments.engines.datatypes import NUMPY, Array
from deployments.profiles.categories import category_name
from deployments.profiles.form import CategoryCounts, TensorProfile, TensorSide
from deployments.profiles.numbers import ABOVE, BELOW, CODES, FIRST, Counts, Floats, NumberColumns, as_floats, count_codes

Mask = npt.NDArray[np.bool_]

CUTS = 9
# Of a feature's categories the most frequent have a rate each; with that of what is unseen they make as many as numbers have.
NAMED = 10
_EDGES = "{:.6g}"


@dataclass(frozen=True, slots=True)
class RateTable:
    """The rates of f features, in their order: [r] each, as in `DriftReference`. `histogram` is [f, 16]."""

    features: tuple[WatchedFeature, ...]
    feature: Counts
    kind: Counts
    cut: Floats
    category: tuple[str, ...]
    hits: Counts
    picked: Counts
    histogram: Counts


class TensorCounting(Protocol):
    """How rows of one tensor are counted. `table` is how it was in the profile."""

    tensor: TensorProfile
    table: RateTable

    def count(self, values: Array) -> tuple[Counts, Counts]:
        """Of k rows [k, features]: how often each rate was so, [r], and the histogram, [f, 16]."""


class NumberCounting:
    """Numbers: cuts at about the profile's deciles, which among its 254 steps; missing; outside its edges."""

    def __init__(self, tensor: TensorProfile, columns: NumberColumns, rows: int) -> None:
        """`rows` is how many the profile has."""
        self.tensor = tensor
        self._lo, self._scale = columns.lo, columns.scale
        counts = columns.counts
        steps = counts.cumsum(axis=1)
        known = steps[:, -1:]
        wanted = np.ceil(known * np.arange(1, CUTS + 1) / (CUTS + 1))
        self._cuts = (steps[:, None, :] < wanted[:, :, None]).sum(axis=2).clip(BELOW, ABOVE)
        parted = np.take_along_axis(steps, self._cuts, axis=1)
        # A cut parts the rows, is another than the one before, and lies within the edges: what is outside has its own rate.
        has_cut = (parted > 0) & (parted < known) & (self._cuts >= FIRST) & (self._cuts < ABOVE)
        has_cut[:, 1:] &= self._cuts[:, 1:] != self._cuts[:, :-1]
        may_miss = tensor.datatype is Datatype.BF16 or NUMPY[tensor.datatype].kind == "f"
        features = len(columns)
        missing, outside = np.full((features, 1), may_miss), np.ones((features, 1), np.bool_)
        self._mask = np.concatenate((has_cut, missing, outside), axis=1)
        side = RateKind.OUTPUT if tensor.side is TensorSide.OUTPUT else RateKind.INPUT
        kinds = [KINDS.index(side)] * CUTS + [KINDS.index(RateKind.MISSING), KINDS.index(RateKind.OUT_OF_RANGE)]
        # A cut is chosen by one row more than the edges: the one that it lies at.
        picked = [EDGE_ROWS + 1] * CUTS + [0, EDGE_ROWS]
        with np.errstate(invalid="ignore", over="ignore"):
            values = columns.lo[:, None] + self._cuts / columns.scale[:, None]
        where, column = np.nonzero(self._mask)
        edges = [(_EDGES.format(lo), _EDGES.format(hi)) for lo, hi in zip(columns.lo.tolist(), columns.hi.tolist(), strict=True)]
        self.table = RateTable(
            features=tuple(
                WatchedFeature(name, side is RateKind.OUTPUT, rows, edge)
                for name, edge in zip(tensor.feature_names(), edges, strict=True)
            ),
            feature=where,
            kind=np.array(kinds, np.int64)[column],
            cut=np.where(column < CUTS, values[where, np.minimum(column, CUTS - 1)], np.nan),
            category=("",) * len(where),
            hits=self._hits(counts, columns.missing),
            picked=np.array(picked, np.int64)[column],
            histogram=_coarse(counts),
        )

    def count(self, values: Array) -> tuple[Counts, Counts]:
        """See TensorCounting."""
        counts, missing = count_codes(as_floats(values, self.tensor.datatype), self._lo, self._scale)
        return self._hits(counts, missing), _coarse(counts)

    def _hits(self, counts: Counts, missing: Counts) -> Counts:
        at_or_below = np.take_along_axis(counts.cumsum(axis=1), self._cuts, axis=1)
        outside = counts[:, BELOW] + counts[:, ABOVE]
        found: Counts = np.concatenate((at_or_below, missing[:, None], outside[:, None]), axis=1)[self._mask]
        return found


class CategoryCounting:
    """Categories: the most frequent, and what the profile does not name."""

    def __init__(self, tensor: TensorProfile, rows: int) -> None:
        """`rows` is how many the profile has."""
        self.tensor = tensor
        self._places = [{name: at for at, name in enumerate(found.names)} for found in tensor.categories]
        side = RateKind.OUTPUT if tensor.side is TensorSide.OUTPUT else RateKind.INPUT
        lines = [self._line(np.array([*found.counts, found.other], np.int64)) for found in tensor.categories]
        sizes = [len(hits) for hits, _ in lines]
        names = [(*found.names[:NAMED], "") for found in tensor.categories]
        kinds = [[KINDS.index(side)] * (size - 1) + [KINDS.index(RateKind.UNSEEN)] for size in sizes]
        picked = [[1] * (size - 1) + [len(found.names)] for size, found in zip(sizes, tensor.categories, strict=True)]
        self.table = RateTable(
            features=tuple(
                WatchedFeature(name, side is RateKind.OUTPUT, rows, _bins(found))
                for name, found in zip(tensor.feature_names(), tensor.categories, strict=True)
            ),
            feature=np.repeat(np.arange(len(sizes)), sizes),
            kind=_joined(kinds),
            cut=np.full(sum(sizes), np.nan),
            category=tuple(name for line in names for name in line),
            hits=_joined([hits for hits, _ in lines]),
            picked=_joined(picked),
            histogram=np.array([bins for _, bins in lines], np.int64).reshape(-1, HISTOGRAM_BINS),
        )

    def count(self, values: Array) -> tuple[Counts, Counts]:
        """See TensorCounting."""
        lines = [self._line(self._counted(values[:, at], places)) for at, places in enumerate(self._places)]
        bins = np.array([bins for _, bins in lines], np.int64).reshape(-1, HISTOGRAM_BINS)
        return _joined([hits for hits, _ in lines]), bins

    @staticmethod
    def _counted(column: Array, places: dict[str, int]) -> Counts:
        """How often each name stood, and, last, how often none of them."""
        counts = np.zeros(len(places) + 1, np.int64)
        for value, count in Counter(column.tolist()).items():
            name = category_name(value)
            counts[places.get(name, -1) if name is not None else -1] += count
        return counts

    @staticmethod
    def _line(counts: Counts) -> tuple[Counts, Counts]:
        """The rates and the histogram of a feature's names and what is none of them."""
        named = counts[:-1]
        bins = np.zeros(HISTOGRAM_BINS, np.int64)
        shown = named[: HISTOGRAM_BINS - 1]
        bins[: len(shown)] = shown
        bins[len(shown)] = counts.sum() - shown.sum()
        return np.append(named[:NAMED], counts[-1]), bins


def _bins(found: CategoryCounts) -> tuple[str, ...]:
    return (*found.names[: HISTOGRAM_BINS - 1], "others")


def _coarse(counts: Counts) -> Counts:
    coarse: Counts = counts.reshape(len(counts), HISTOGRAM_BINS, CODES // HISTOGRAM_BINS).sum(axis=2)
    return coarse


def _joined(lines: list[Counts] | list[list[int]]) -> Counts:
    return np.concatenate([np.asarray(line, np.int64) for line in lines]) if lines else np.empty(0, np.int64)
