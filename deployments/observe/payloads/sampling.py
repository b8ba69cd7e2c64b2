"""Which predictions are kept: a pure function of their id and the document's seed, independent of the rollout's split."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import xxhash

_WHOLE = 2**64
_STEP = np.uint64(0x9E3779B97F4A7C15)


def is_sampled(prediction: str, share: float, seed: int) -> bool:
    """Whether the prediction of this id is among the share that is kept."""
    return share >= 1 or xxhash.xxh3_64_intdigest(prediction.encode(), seed) < share * _WHOLE


def sampled_places(place: str, numbers: npt.NDArray[np.int64], share: float, seed: int) -> npt.NDArray[np.intp]:
    """The positions in `numbers` of those that are kept, where the id of each is `place/number`: a topic's partition and offsets.

    All at once, by SplitMix64 of a hash of the place and the number: to hash every id would cost more than to score it.
    """
    if share <= 0 or len(numbers) == 0:
        return np.empty(0, np.intp)
    if share >= 1:
        return np.arange(len(numbers))
    start = np.uint64(xxhash.xxh3_64_intdigest(place.encode(), seed))
    with np.errstate(over="ignore"):
        mixed = start + numbers.astype(np.uint64) * _STEP
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return np.flatnonzero(mixed < np.uint64(min(math.floor(share * _WHOLE), _WHOLE - 1)))


def weight_of(share: float) -> float:
    """How many predictions one that was kept stands for."""
    return 1.0 / share
