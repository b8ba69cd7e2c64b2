"""A version's profile as what its rows are counted against: every tensor's rates, one after the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cluster.drift.counts import HISTOGRAM_BINS, DriftReference, WatchedFeature, reference_digest
from cluster.drift.kinds import KINDS, RateKind
from deployments.drift.tensor_counts import CategoryCounting, NumberCounting, RateTable, TensorCounting
from deployments.engines.datatypes import Array
from deployments.profiles.form import FeatureKind, Profile, TensorSide
from deployments.profiles.numbers import Counts, Floats
from deployments.profiles.outliers import FLAG_P, flagged_of, outlier_score

# So many values a second are counted at most, of any number of features: about 5 ms.
MOST_VALUES_A_SECOND = 1 << 18
MOST_ROWS_A_SECOND = 256
LEAST_ROWS_A_SECOND = 16
# The name of the feature that rows as wholes are; no tensor's has a space.
WHOLE_ROWS = "whole rows"


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """k rows of one version, copied: each watched tensor by its key in the profile, [k, features]. `rows` says which they were,
    by the caller's numbers. A tensor whose rows have another shape than the profile's is left out. Each `stands_for` so many."""

    version: VersionCounting
    rows: Counts
    tensors: Mapping[str, Array]
    stands_for: float = 1.0


@dataclass(slots=True)
class VersionCounts:
    """What was counted of one version: rows and histogram by feature, [f] and [f, 16], hits by rate, [r]."""

    rows: Counts
    hits: Counts
    histogram: Counts

    def add(self, other: VersionCounts) -> None:
        """Adds what was counted elsewhere."""
        self.rows += other.rows
        self.hits += other.hits
        self.histogram += other.histogram


class VersionCounting:
    """Of a version called `model` and `number`. `profile` None: nothing is watched, and the controller is told so."""

    def __init__(self, model: str, number: int, profile: Profile | None) -> None:
        self.model, self.number = model, number
        self._tensors: list[TensorCounting] = [] if profile is None else _countings(profile)
        self.outliers = None if profile is None else outlier_score(profile)
        tables = [counting.table for counting in self._tensors]
        if self.outliers is not None and flagged_of(self.outliers.calibrated_on):
            tables.append(_whole_rows(self.outliers.calibrated_on))
            self._counts_outliers = True
        else:
            self._counts_outliers = False  # of so few no row is ever flagged
        self.reference = _reference(tables)
        self.digest = reference_digest(self.reference)

    @property
    def watched(self) -> bool:
        """Whether there is anything to count."""
        return bool(self._tensors)

    @property
    def most_rows(self) -> int:
        """How many rows a second are worth their cost."""
        fit = MOST_VALUES_A_SECOND // max(1, len(self.reference.features))
        return min(MOST_ROWS_A_SECOND, max(LEAST_ROWS_A_SECOND, fit))

    def copied(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], rows: Counts, asked: Counts, answered: Counts
    ) -> DrawnRows:
        """Copies rows that were scored: those at `asked` of the inputs, whose answers are at `answered` of the outputs."""
        copies: dict[str, Array] = {}
        for counting in self._tensors:
            tensor = counting.tensor
            source, places = (inputs, asked) if tensor.side is TensorSide.INPUT else (outputs, answered)
            value = source.get(tensor.name)
            if value is not None and value.shape[1:] == tensor.row_shape:
                copies[tensor.key] = value.reshape(len(value), tensor.features)[:, : tensor.profiled][places]
        return DrawnRows(self, rows, copies)

    def nothing(self) -> VersionCounts:
        """No rows."""
        features, rates = len(self.reference.features), len(self.reference.hits)
        rows, hits = np.zeros(features, np.int64), np.zeros(rates, np.int64)
        return VersionCounts(rows, hits, np.zeros((features, HISTOGRAM_BINS), np.int64))

    def count(self, drawn: DrawnRows) -> VersionCounts:
        """Counts rows of this version."""
        found = self.nothing()
        feature = rate = 0
        for counting in self._tensors:
            features, rates = len(counting.table.features), len(counting.table.hits)
            values = drawn.tensors.get(counting.tensor.key)
            if values is not None:
                here = slice(feature, feature + features)
                found.rows[here] = len(values)
                found.hits[rate : rate + rates], found.histogram[here] = counting.count(values)
            feature, rate = feature + features, rate + rates
        if self._counts_outliers and self.outliers is not None and self.outliers.can_score(drawn.tensors):
            values = self.outliers.p_values(drawn.tensors)
            found.rows[feature], found.hits[rate] = len(values), np.count_nonzero(values <= FLAG_P)
            found.histogram[feature] = _spread(values)
        return found

    def outliers_among(self, drawn: DrawnRows) -> tuple[dict[str, Array], dict[str, Array]] | None:
        """Inputs and outputs, by name, of those rows that are outliers, as far as the profile has them whole; None where there
        are none. Takes about as long as to count."""
        if not self._counts_outliers or self.outliers is None or not self.outliers.can_score(drawn.tensors):
            return None
        places = np.flatnonzero(self.outliers.p_values(drawn.tensors) <= FLAG_P)
        if not len(places):
            return None
        found: tuple[dict[str, Array], dict[str, Array]] = {}, {}
        for tensor in (counting.tensor for counting in self._tensors):
            values = drawn.tensors.get(tensor.key)
            if values is not None and tensor.profiled == tensor.features and len(values) == len(drawn.rows):
                found[tensor.side is TensorSide.OUTPUT][tensor.name] = values[places].reshape(len(places), *tensor.row_shape)
        return found if found[0] else None

    def flagged(self, counts: VersionCounts) -> int:
        """How many of the rows that were counted are outliers."""
        return int(counts.hits[-1]) if self._counts_outliers else 0


def drawn_of(drawn: DrawnRows, kept: Counts) -> DrawnRows:
    """Only these of the drawn rows, by their places among them."""
    return replace(drawn, rows=drawn.rows[kept], tensors={key: values[kept] for key, values in drawn.tensors.items()})


def joined_rows(several: Collection[DrawnRows]) -> DrawnRows:
    """At least one of one version's as one: to count takes about as long for one row as for a hundred."""
    first = next(iter(several))
    keys = {key for each in several for key in each.tensors}
    tensors = {key: np.concatenate([each.tensors[key] for each in several if key in each.tensors]) for key in keys}
    rows = np.concatenate([each.rows for each in several])
    stands_for = sum(len(each.rows) * each.stands_for for each in several) / max(1, len(rows))
    return DrawnRows(first.version, rows, tensors, stands_for)


def _countings(profile: Profile) -> list[TensorCounting]:
    """The answers first, and within a side as the profile has them."""
    rows = profile.summary.rows
    ordered = sorted(profile.summary.tensors, key=lambda tensor: tensor.side is TensorSide.INPUT)
    return [
        NumberCounting(tensor, profile.numbers[tensor.key], rows)
        if tensor.kind is FeatureKind.NUMBERS
        else CategoryCounting(tensor, rows)
        for tensor in ordered
        if tensor.profiled
    ]


def _whole_rows(held_out: int) -> RateTable:
    """What is true of rows as wholes: how many are flagged, of those that were held out; the histogram is of p-values."""
    name = WatchedFeature(WHOLE_ROWS, False, held_out, ("0", "1"))
    return RateTable(
        features=(name,),
        feature=np.zeros(1, np.int64),
        kind=np.array([KINDS.index(RateKind.OUTLIER)]),
        cut=np.array([np.nan]),
        category=("",),
        hits=np.array([flagged_of(held_out)]),
        picked=np.ones(1, np.int64),
        histogram=_spread(np.arange(2, held_out + 2) / (held_out + 1))[None, :],
    )


def _spread(p_values: Floats) -> Counts:
    return np.histogram(p_values, bins=HISTOGRAM_BINS, range=(0, 1))[0].astype(np.int64)


def _reference(tables: list[RateTable]) -> DriftReference:
    starts = np.cumsum([0, *(len(table.features) for table in tables)])
    feature = [table.feature + start for table, start in zip(tables, starts, strict=False)]
    none, zero = np.empty(0), np.empty(0, np.int64)
    return DriftReference(
        features=tuple(feature for table in tables for feature in table.features),
        feature=np.concatenate([zero, *feature]),
        kind=np.concatenate([zero, *(table.kind for table in tables)]),
        cut=np.concatenate([none, *(table.cut for table in tables)]),
        category=tuple(name for table in tables for name in table.category),
        hits=np.concatenate([zero, *(table.hits for table in tables)]),
        picked=np.concatenate([zero, *(table.picked for table in tables)]),
        histogram=np.concatenate([np.empty((0, HISTOGRAM_BINS), np.int64), *(table.histogram for table in tables)]),
    )
