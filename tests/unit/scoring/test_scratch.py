"""Copies of rows in memory that is used again."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.scoring import scratch
from deployments.scoring.scratch import Scratch

WIDTH = 784


def tensors(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "x": random.random((rows, WIDTH), dtype=np.float32),
        "small": random.random(rows),
        "words": np.array([b"%d" % row for row in range(rows)], np.object_),
    }


def test_a_copy_is_what_indexing_gives_whatever_was_lent_before() -> None:
    lender, random = Scratch(), np.random.default_rng(1)
    for count in (400, 100, 390, 500, 1, 480):
        given = tensors(600, seed=count)
        rows = np.sort(random.choice(600, count, replace=False))
        lent = lender.take(given, rows)
        for name, tensor in given.items():
            np.testing.assert_array_equal(lent[name], tensor[rows])
            assert lent[name].flags.c_contiguous
        lender.give_back(lent)


def test_what_came_back_is_lent_again_and_what_is_lent_out_is_not() -> None:
    lender, given, rows = Scratch(), tensors(600), np.arange(0, 600, 2)
    first = lender.take(given, rows)["x"]
    second = lender.take(given, rows)["x"]
    assert not np.shares_memory(first, second)
    lender.give_back({"x": first})
    third = lender.take(given, rows)["x"]
    assert np.shares_memory(first, third)
    assert not np.shares_memory(second, third)


def test_a_bound_on_what_is_kept() -> None:
    lender, given, rows = Scratch(), tensors(600), np.arange(600)
    out = [lender.take(given, rows) for _ in range(scratch.MOST_BYTES // given["x"].nbytes + 5)]
    for each in out:
        lender.give_back(each)
    assert lender._free_bytes <= scratch.MOST_BYTES


def test_rows_of_a_caller_are_never_kept() -> None:
    """A view of somebody's array may come here by mistake of an engine only; small copies own their memory."""
    lender, given = Scratch(), tensors(600)
    lender.give_back(lender.take(given, np.arange(3)))
    assert lender._free_bytes == 0


@pytest.mark.thorough
def test_shapes_that_nobody_comes_back_to_make_room_and_leave_nothing() -> None:
    """A free axis is of any length: each is another shape."""
    lender, row = Scratch(), np.arange(1)
    for width in range(1_000_000, 1_000_400):
        lender.give_back(lender.take({"x": np.zeros((2, width), np.float32)}, row))
        assert lender._free_bytes == sum(buffer.nbytes for kept in lender._free.values() for buffer in kept)
        assert lender._free_bytes <= scratch.MOST_BYTES
    assert len(lender._free) <= scratch.MOST_BYTES // 4_000_000
    last = lender.take({"x": np.zeros((2, width), np.float32)}, row)["x"]
    lender.give_back({"x": last})
    assert np.shares_memory(last, lender.take({"x": np.zeros((2, width), np.float32)}, row)["x"])


def test_what_is_larger_than_all_that_may_be_kept_is_not() -> None:
    lender, rows = Scratch(), np.arange(1)
    lender.give_back(lender.take({"x": np.zeros((2, scratch.MOST_BYTES // 4 + 1), np.float32)}, rows))
    assert (lender._free_bytes, lender._free) == (0, {})
