"""How unlike the profile's rows a row is as a whole: its place among the scores of rows that were held out for it. Pure.

The score is the greatest of three, each brought to the same scale: how rare a row's values are, one by one (the sum of -log p of
their bins), how far its numbers lie from the plane of the main components (what they have in common), and how far out in that
plane, each component by its own spread. One half of the profile's rows, drawn at random, says what is rare; the other half is
only scored. So for a row like these the chance of a p-value of at most a is at most a, whatever the score is worth (split
conformal).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deployments.engines.datatypes import Array
from deployments.profiles.categories import category_name
from deployments.profiles.form import FeatureKind, OutlierArrays, Profile, TensorProfile, TensorSide
from deployments.profiles.numbers import ABOVE, BELOW, CODES, FIRST, Floats, as_floats, codes, number_columns

INNER_BINS = 16
BINS = INNER_BINS + 2
PARTS = 3
FEWEST_ROWS = 20
MOST_CALIBRATION = 2000
MOST_LEARNT = 4096
# Components cost a matrix of so many rows, and so many are kept at most, each of at least so many rows.
COMPONENT_ROWS = 1024
MOST_COMPONENTS = 16
ROWS_A_COMPONENT = 10
# A row that is flagged has a p-value of at most this.
FLAG_P = 0.01
_FARTHEST = 30.0
# Where each bin begins among the 256 codes: the first and the last are of what is outside.
_STARTS = np.array([BELOW, *(FIRST + (ABOVE - FIRST) * at // INNER_BINS for at in range(INNER_BINS)), ABOVE])
_BIN_OF_CODE = np.repeat(np.arange(BINS), np.diff([*_STARTS, CODES]))
_SEED = 20
_BLOCK_VALUES = 1 << 20


def calibrated(tensors: Sequence[TensorProfile], inputs: Mapping[str, Array]) -> OutlierArrays | None:
    """Of the profile's rows [n, ...], whose inputs `tensors` describe; None where they are too few, or nothing is known."""
    watched = [tensor for tensor in tensors if tensor.side is TensorSide.INPUT and tensor.profiled]
    rows = len(next(iter(inputs.values())))
    if rows < FEWEST_ROWS or not watched:
        return None
    order = np.random.default_rng(_SEED).permutation(rows)
    learnt, held = order[: rows // 2][:MOST_LEARNT], order[rows // 2 :][:MOST_CALIBRATION]
    flat = {tensor.key: inputs[tensor.name].reshape(rows, tensor.features)[:, : tensor.profiled] for tensor in watched}
    of_learnt = {key: value[learnt] for key, value in flat.items()}
    numbers = _numbers(watched, of_learnt)
    columns = [number_columns(of_learnt[t.key], t.datatype) for t in watched if t.kind is FeatureKind.NUMBERS]
    counts = np.concatenate([each.counts for each in columns]) if columns else np.empty((0, CODES), np.int64)
    missing = np.concatenate([each.missing for each in columns]) if columns else np.empty(0, np.int64)
    bins = np.concatenate((np.add.reduceat(counts, _STARTS, axis=1), missing[:, None]), axis=1)
    known = np.isfinite(numbers)
    seen = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, numbers, 0).sum(axis=0) / seen
    std = np.sqrt((np.where(known, numbers - mean, 0) ** 2).sum(axis=0) / seen)
    # A number that never changed is as far off as it may be where it differs by more than its last digits.
    std = np.where(std > 0, std, np.maximum(np.abs(mean) * 1e-6, 1e-12))
    standard = _standard(numbers[:COMPONENT_ROWS], mean, std)
    components = _components(standard)
    names, named = _named(watched, of_learnt)
    arrays = OutlierArrays(
        lo=np.concatenate([np.empty(0), *(each.lo for each in columns)]),
        scale=np.concatenate([np.empty(0), *(each.scale for each in columns)]),
        mean=mean,
        std=std,
        rarity=_rarity(bins),
        components=components,
        reach=np.maximum((standard @ components.T).std(axis=0), 1e-9),
        names=names,
        named=named,
        middle=np.zeros(PARTS),
        spread=np.ones(PARTS),
        calibration=np.empty(0),
    )
    plain = OutlierScore(tensors, arrays)
    parts = plain.parts(of_learnt)
    middle = np.median(parts, axis=0)
    spread = np.maximum(np.quantile(parts, 0.9, axis=0) - middle, 1e-9)
    scaled = OutlierScore(tensors, replace(arrays, middle=middle, spread=spread))
    held_out = scaled.scores({key: value[held] for key, value in flat.items()})
    return replace(arrays, middle=middle, spread=spread, calibration=np.sort(held_out))


class OutlierScore:
    """Scores rows of inputs that `tensors` describe, given flat by the tensors' keys: [n, profiled] each."""

    def __init__(self, tensors: Sequence[TensorProfile], arrays: OutlierArrays) -> None:
        self._arrays = arrays
        self._watched = [tensor for tensor in tensors if tensor.side is TensorSide.INPUT and tensor.profiled]
        self._places = [
            {name: at for at, name in enumerate(found.names)} for tensor in self._watched for found in tensor.categories
        ]
        self._starts = np.cumsum([0, *arrays.names.tolist()]).tolist()

    @property
    def calibrated_on(self) -> int:
        """How many rows were held out."""
        return len(self._arrays.calibration)

    def p_values_of(self, inputs: Mapping[str, Array]) -> Floats:
        """Those of n rows, given by the inputs' names as the version takes them; NaN where they have another shape than the
        profile's rows: these can't be compared."""
        rows = len(next(iter(inputs.values())))
        flat: dict[str, Array] = {}
        for tensor in self._watched:
            value = inputs.get(tensor.name)
            if value is None or value.shape[1:] != tensor.row_shape:
                return np.full(rows, np.nan)
            flat[tensor.key] = value.reshape(rows, tensor.features)[:, : tensor.profiled]
        return self.p_values(flat)

    def can_score(self, flat: Mapping[str, Array]) -> bool:
        """Whether every input is there, for as many rows."""
        lengths = {len(flat.get(tensor.key, ())) for tensor in self._watched}
        return len(lengths) == 1 and 0 not in lengths

    def p_values(self, flat: Mapping[str, Array]) -> Floats:
        """What share of rows like the profile's is as unlike it as each of these n is, or more; [n], above 0."""
        calibration = self._arrays.calibration
        scores = self.scores(flat)
        # A row equal to one that was held out is as far off, whatever the last digits of its sums say.
        below = np.searchsorted(calibration, scores - 1e-9 * (1 + np.abs(scores)), side="left")
        found: Floats = (1 + len(calibration) - below) / (len(calibration) + 1)
        return found

    def scores(self, flat: Mapping[str, Array]) -> Floats:
        """The greatest of the parts, each from its middle and in its spread, [n]."""
        found: Floats = ((self.parts(flat) - self._arrays.middle) / self._arrays.spread).max(axis=1)
        return found

    def parts(self, flat: Mapping[str, Array]) -> Floats:
        """How rare the values are, how far off the numbers' plane, and how far out in it, [n, 3]. Some rows at a time, so that
        memory is bounded."""
        rows = len(next(iter(flat.values())))
        size = max(1, _BLOCK_VALUES // (len(self._arrays.lo) + len(self._arrays.names) + 1))
        blocks = [self._parts({key: value[at : at + size] for key, value in flat.items()}) for at in range(0, rows, size)]
        return np.concatenate(blocks) if blocks else np.empty((0, PARTS))

    def _parts(self, flat: Mapping[str, Array]) -> Floats:
        arrays = self._arrays
        numbers = _numbers(self._watched, flat)
        bins = np.where(np.isnan(numbers), BINS, _BIN_OF_CODE[codes(numbers, arrays.lo, arrays.scale)])
        rare = arrays.rarity[np.arange(len(arrays.lo)), bins].sum(axis=1)
        category = 0
        for tensor in self._watched:
            if tensor.kind is FeatureKind.CATEGORIES:
                for column in range(tensor.profiled):
                    rare += self._rarity_of(flat[tensor.key][:, column], category)
                    category += 1
        standard = _standard(numbers, arrays.mean, arrays.std)
        along = standard @ arrays.components.T
        off = np.sqrt(np.maximum((standard**2).sum(axis=1) - (along**2).sum(axis=1), 0))
        return np.stack((rare, off, np.sqrt(((along / arrays.reach) ** 2).sum(axis=1))), axis=1)

    def _rarity_of(self, column: Array, category: int) -> Floats:
        places = self._places[category]
        others = len(places)
        found = [places.get(name, others) if (name := category_name(value)) is not None else others for value in column.tolist()]
        rarity: Floats = self._arrays.named[self._starts[category] + np.array(found, np.int64)]
        return rarity


def outlier_score(profile: Profile) -> OutlierScore | None:
    """What tells a profile's outliers; None where it has nothing to tell them by."""
    return None if profile.outliers is None else OutlierScore(profile.summary.tensors, profile.outliers)


def fits(tensors: Sequence[TensorProfile], arrays: OutlierArrays) -> bool:
    """Whether the arrays are of these tensors."""
    watched = [tensor for tensor in tensors if tensor.side is TensorSide.INPUT]
    numbers = sum(tensor.profiled for tensor in watched if tensor.kind is FeatureKind.NUMBERS)
    names = [len(found.names) + 1 for tensor in watched for found in tensor.categories]
    lengths = {len(each) for each in (arrays.lo, arrays.scale, arrays.mean, arrays.std, arrays.rarity)}
    return (
        lengths == {numbers}
        and arrays.rarity.shape == (numbers, BINS + 1)
        and arrays.components.shape[1:] == (numbers,)
        and arrays.names.tolist() == names
        and arrays.named.shape == (sum(names),)
        and arrays.reach.shape == arrays.components.shape[:1]
        and arrays.middle.shape == arrays.spread.shape == (PARTS,)
        and arrays.calibration.ndim == 1
    )


def flagged_of(calibrated_on: int) -> int:
    """How many of the rows that were held out would be flagged themselves."""
    return max(int(FLAG_P * (calibrated_on + 1)) - 1, 0)


def _numbers(tensors: Sequence[TensorProfile], flat: Mapping[str, Array]) -> Floats:
    """All numbers of the rows side by side, [n, f]."""
    rows = len(next(iter(flat.values())))
    found = [as_floats(flat[tensor.key], tensor.datatype) for tensor in tensors if tensor.kind is FeatureKind.NUMBERS]
    return np.concatenate(found, axis=1) if found else np.empty((rows, 0))


def _standard(numbers: Floats, mean: Floats, std: Floats) -> Floats:
    """From their means in their spreads; what is missing lies at the mean."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = (numbers - mean) / std
    return np.nan_to_num(found, nan=0.0, posinf=_FARTHEST, neginf=-_FARTHEST).clip(-_FARTHEST, _FARTHEST)


def _components(standard: Floats) -> Floats:
    """The main directions of n rows, [c, f]: orthonormal, at most half as many as there are numbers."""
    rows, width = standard.shape
    most = min(MOST_COMPONENTS, width // 2, rows // ROWS_A_COMPONENT)
    if most < 1:
        return np.empty((0, width))
    if width <= rows:
        _, vectors = np.linalg.eigh(standard.T @ standard)
        return np.ascontiguousarray(vectors[:, ::-1][:, :most].T)
    values, vectors = np.linalg.eigh(standard @ standard.T)
    values, vectors = values[::-1][:most], vectors[:, ::-1][:, :most]
    real = values > 1e-9 * max(float(values[0]), 1e-300)
    return np.asarray((standard.T @ vectors[:, real]).T / np.sqrt(values[real])[:, None])


def _named(tensors: Sequence[TensorProfile], flat: Mapping[str, Array]) -> tuple[npt.NDArray[np.int64], Floats]:
    sizes: list[int] = []
    found: list[Floats] = [np.empty(0)]
    for tensor in tensors:
        for column, categories in enumerate(tensor.categories):
            places = {name: at for at, name in enumerate(categories.names)}
            counts = np.zeros(len(places) + 1, np.int64)
            for value in flat[tensor.key][:, column].tolist():
                name = category_name(value)
                counts[places.get(name, -1) if name is not None else -1] += 1
            sizes.append(len(counts))
            found.append(_rarity(counts[None, :])[0])
    return np.array(sizes, np.int64), np.concatenate(found)


def _rarity(counts: npt.NDArray[np.int64]) -> Floats:
    """-log p of each of k bins, where half a row more than was seen lies in each."""
    shares = (counts + 0.5) / (counts.sum(axis=1, keepdims=True) + 0.5 * counts.shape[1])
    found: Floats = -np.log(shares)
    return found
