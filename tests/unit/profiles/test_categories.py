"""Categories: exact counts of the frequent ones, in bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from deployments.profiles.categories import CANDIDATES, MOST_CATEGORIES, count_categories


def texts(*values: bytes) -> np.ndarray:
    found = np.empty(len(values), np.object_)
    found[:] = values
    return found


def test_the_most_frequent_come_first_and_nothing_is_lost() -> None:
    found = count_categories(texts(b"car", b"house", b"car", "études".encode(), b"car", b"house"))
    assert found.names == ("car", "house", "études")
    assert (found.counts, found.other, found.distinct) == ((3, 2, 1), 0, 3)


def test_what_has_no_name_or_too_few_rows_is_other() -> None:
    found = count_categories(texts(*[b"\xff"] * 6, *[b"x" * 101] * 7, *[b"x" * 100] * 5, b"Ann", b"Bob"), least=5)
    assert (found.names, found.counts, found.other, found.distinct) == (("x" * 100,), (5,), 15, 5)


def test_at_most_a_hundred_are_named() -> None:
    found = count_categories(np.repeat(np.arange(150), np.arange(1, 151)))
    assert len(found.names) == MOST_CATEGORIES
    assert (found.names[0], found.counts[0], found.counts[-1]) == ("149", 150, 51)
    assert found.other == sum(range(1, 51))
    assert count_categories(np.array([True, False, True])).names == ("True", "False")


@pytest.mark.thorough
def test_a_million_categories_are_counted_in_bounded_memory() -> None:
    rows = np.arange(1_000_000)
    rows[::10] = 7  # a tenth of all rows
    rows[3::1000] = -1  # one in a thousand, still above one in CANDIDATES
    tracemalloc.start()
    try:
        found = count_categories(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6, "the million itself takes above 100 MB as a Counter"
    assert CANDIDATES > 1000
    assert found.names[:2] == ("7", "-1")
    assert found.counts[:2] == (100_001, 1000)
    assert found.distinct is None
    assert sum(found.counts) + found.other == len(rows)
