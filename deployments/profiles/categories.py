"""Categories and how often each stood, in bounded memory however many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from deployments.engines.datatypes import Array
from deployments.profiles.form import CategoryCounts

MOST_CATEGORIES = 100
LONGEST_NAME = 100
CANDIDATES = 4096
BLOCK_ROWS = 1 << 16


def count_categories(values: Array, *, least: int = 1) -> CategoryCounts:
    """The most frequent values of [n] (bytes, whole numbers or truths), at most 100, counted exactly.

    Two passes: the first keeps at most 4,096 candidates (Misra and Gries: whatever stands in more than one row in 4,096 is among
    them), the second counts those. Values in fewer than `least` rows, longer than 100 bytes, or that are no UTF-8 count as other.
    """
    found, all_kept = _candidates(values)
    if not all_kept:
        found = _counted(values, found)
    named = [(name, count) for value, count in found.items() if count >= least and (name := category_name(value)) is not None]
    named.sort(key=lambda one: (-one[1], one[0]))
    kept = named[:MOST_CATEGORIES]
    return CategoryCounts(
        names=tuple(name for name, _ in kept),
        counts=tuple(count for _, count in kept),
        other=len(values) - sum(count for _, count in kept),
        distinct=len(found) if all_kept else None,
    )


def category_name(value: object) -> str | None:
    """What a value is called in a profile; None where it can't have a name."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode() if len(value) <= LONGEST_NAME else None
    except UnicodeDecodeError:
        return None


def _candidates(values: Array) -> tuple[Counter[object], bool]:
    """The values that may be frequent, and whether these are all there are (then the counts are exact)."""
    found: Counter[object] = Counter()
    all_kept = True
    for block in _blocks(values):
        found.update(block)
        if len(found) > CANDIDATES:
            all_kept = False
            cut = sorted(found.values(), reverse=True)[CANDIDATES]
            found = Counter({value: count - cut for value, count in found.items() if count > cut})
    return found, all_kept


def _counted(values: Array, candidates: Counter[object]) -> Counter[object]:
    found: Counter[object] = Counter()
    for block in _blocks(values):
        found.update(value for value in block if value in candidates)
    return found


def _blocks(values: Array) -> Iterator[list[object]]:
    for start in range(0, len(values), BLOCK_ROWS):
        yield values[start : start + BLOCK_ROWS].tolist()
