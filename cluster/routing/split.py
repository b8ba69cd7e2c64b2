"""The split: which share of keys goes to which version. A pure function of the key."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
import xxhash

from cluster.routing.routes import WEIGHT_UNIT


def goes_to_candidate(key: bytes, *, salt: int, weight: int) -> bool:
    """What `to_candidate` says of a single key."""
    return xxhash.xxh3_64_intdigest(key, salt) % WEIGHT_UNIT < weight


def to_candidate(keys: Sequence[bytes | None], *, salt: int, weight: int, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Says for each key whether the candidate scores it; shape [len(keys)].

    `xxh3_64(key, seed=salt) % 10000 < weight`: the same key meets the same version in every process, and raising the
    weight never moves a key back. A key of None is drawn at random.
    """
    if weight <= 0:
        return np.zeros(len(keys), dtype=np.bool_)
    if weight >= WEIGHT_UNIT:
        return np.ones(len(keys), dtype=np.bool_)
    digest = xxhash.xxh3_64_intdigest
    if _all_known(keys):
        digests = np.fromiter(map(digest, keys, repeat(salt)), dtype=np.uint64, count=len(keys))
        return np.asarray(digests % WEIGHT_UNIT < weight, dtype=np.bool_)
    drawn = random.integers(0, WEIGHT_UNIT, size=len(keys)).tolist()
    slots = [slot if key is None else digest(key, salt) % WEIGHT_UNIT for key, slot in zip(keys, drawn, strict=True)]
    return np.array(slots) < weight


def _all_known(keys: Sequence[bytes | None]) -> TypeGuard[Sequence[bytes]]:
    return None not in keys
