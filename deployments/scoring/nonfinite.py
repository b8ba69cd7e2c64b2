"""What JSON has no number for: `null` is NaN, a missing value, and infinities are texts. Read and written alike by every way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deployments.engines.datatypes import Array

WORDS: Mapping[str | None, float] = {None: math.nan, "NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
REMEDY = 'send null or "NaN" for a missing value, "Infinity" and "-Infinity" in quotes, or the tensor as binary'


def numbers(items: Sequence[Any]) -> Array:
    """Flat items of a document as float64. Raises TypeError where one is neither a number nor what stands for one."""
    return np.array([item if type(item) in (float, int) else _number(item) for item in items], np.float64)


def _number(item: object) -> float:
    if item is None or (isinstance(item, str) and item in WORDS):
        return WORDS[item]
    raise TypeError(f"{type(item).__name__} is no number")


def overflown(narrow: Array, wide: Array) -> Array:
    """Where numbers have become infinite that were not, bool; both are floating-point."""
    return np.asarray(np.isinf(narrow) & np.isfinite(wide))


def has_infinity(array: Array) -> bool:
    """Whether any item is one. A sum is quicker than a mask, and not finite wherever an item is."""
    if array.dtype.kind != "f":
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return not math.isfinite(array.sum()) and bool(np.isinf(array).any())


def spoken(array: Array) -> Any:
    """Nested lists with texts for infinities and None for NaN."""
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return array.tolist()
    items, infinite = array.astype(np.object_), np.isinf(array)
    items[np.isnan(array)] = None
    items[infinite] = np.where(np.signbit(array[infinite]), "-Infinity", "Infinity")
    return items.tolist()
