"""Numbers in fixed bins: each value becomes a code of 8 bits, and all that is kept of rows is how often each code stood."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from cluster.signature import Datatype
from deployments.engines.datatypes import Array

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BELOW, FIRST, LAST, ABOVE = 0, 1, 254, 255
CODES = 256
LOW_SHARE, HIGH_SHARE = 0.001, 0.999
# A hair less than 254 bins, so that the upper edge itself lies in the last.
STEPS = 253.999
# Of a feature that never changed: whatever differs lies outside.
STEEPEST = 1e300
# Edges beyond this would make a difference of two of them infinite.
FARTHEST = 1e300
BLOCK_VALUES = 1 << 21


@dataclass(frozen=True, slots=True)
class NumberColumns:
    """f features of n rows. All arrays are [f], but `counts`, [f, 256].

    `missing` are NaN, `infinite` of either sign. Mean, std (of the population), lowest and highest are of the finite values; NaN
    where there is none. `lo` and `hi` are the 0.1 % and the 99.9 % value, or lowest and highest where these are one; the value x
    has the code clip((x - lo) * scale + 1, 0, 255), rounded down: 0 is below lo, 255 above hi. `counts` leaves NaN out.
    """

    missing: Counts
    infinite: Counts
    mean: Floats
    std: Floats
    lowest: Floats
    highest: Floats
    lo: Floats
    hi: Floats
    scale: Floats
    counts: Counts

    def __len__(self) -> int:
        return len(self.missing)


ARRAYS = tuple(field.name for field in fields(NumberColumns))


def number_columns(values: Array, datatype: Datatype) -> NumberColumns:
    """Profiles `values` [n, f], n at least 1, a few features at a time, so that its memory is bounded by the rows."""
    width = max(1, BLOCK_VALUES // max(1, len(values)))
    starts = range(0, values.shape[1], width) if values.shape[1] else [0]
    blocks = [_block(as_floats(values[:, start : start + width], datatype)) for start in starts]
    return NumberColumns(**{name: np.concatenate([getattr(block, name) for block in blocks]) for name in ARRAYS})


def as_floats(values: Array, datatype: Datatype) -> Floats:
    """The numbers that a tensor stands for; BF16 lies in it as raw bits."""
    if datatype is Datatype.BF16:
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def codes(values: Floats, lo: Floats, scale: Floats) -> npt.NDArray[np.uint8]:
    """The code of each value of [n, f]; that of NaN, and of whatever stands where no row had a number, is 255."""
    with np.errstate(over="ignore", invalid="ignore"):
        steps = (values - lo) * scale + 1
    np.nan_to_num(steps, copy=False, nan=ABOVE, posinf=ABOVE, neginf=BELOW)
    return np.clip(steps, BELOW, ABOVE).astype(np.uint8)


def count_codes(values: Floats, lo: Floats, scale: Floats) -> tuple[Counts, Counts]:
    """How often each code stands in each feature of [n, f], [f, 256], NaN left out; and how often NaN does, [f]."""
    width = values.shape[1]
    places = codes(values, lo, scale) + CODES * np.arange(width, dtype=np.int64)
    missing = np.isnan(values)
    known = places[~missing] if missing.any() else places.ravel()
    counts = np.bincount(known, minlength=CODES * width).reshape(width, CODES)
    return counts.astype(np.int64), missing.sum(axis=0, dtype=np.int64)


def _block(values: Floats) -> NumberColumns:
    finite = np.isfinite(values)
    known = finite.sum(axis=0)
    ordered = np.sort(np.where(finite, values, np.inf), axis=0)
    lowest, low, high, highest = (_ranked(ordered, known, share) for share in (0.0, LOW_SHARE, HIGH_SHARE, 1.0))
    lo, hi = np.where(low < high, (low, high), (lowest, highest)).clip(-FARTHEST, FARTHEST)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        scale = np.minimum(STEPS / (hi - lo), STEEPEST)
        mean = np.where(finite, values, 0).sum(axis=0) / known
        std = np.sqrt((np.where(finite, values - mean, 0) ** 2).sum(axis=0) / known)
    counts, missing = count_codes(values, lo, scale)
    return NumberColumns(
        missing=missing,
        infinite=np.isinf(values).sum(axis=0, dtype=np.int64),
        mean=mean,
        std=std,
        lowest=lowest,
        highest=highest,
        lo=lo,
        hi=hi,
        scale=scale,
        counts=counts,
    )


def _ranked(ordered: Floats, known: Counts, share: float) -> Floats:
    """Of each column's first `known` values the smallest that so large a share is not above; NaN where none is known."""
    place = np.clip(np.ceil(share * known).astype(np.int64) - 1, 0, np.maximum(known - 1, 0))
    found = np.take_along_axis(ordered, place[None, :], axis=0)[0]
    return np.where(known > 0, found, np.nan)
