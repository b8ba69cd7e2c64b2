"""Numbers in fixed bins, on columns as they come."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from cluster.signature import Datatype
from deployments.profiles.numbers import ABOVE, BELOW, FIRST, LAST, NumberColumns, codes, count_codes, number_columns

INF, NAN = np.inf, np.nan


def column(*values: float, datatype: Datatype = Datatype.FP64) -> NumberColumns:
    return number_columns(np.array(values)[:, None], datatype)


def stands(columns: NumberColumns) -> dict[int, int]:
    """How often each code of the only feature stands, where it does."""
    return {int(code): int(columns.counts[0, code]) for code in np.nonzero(columns.counts[0])[0]}


def test_moments_and_edges_are_those_of_numpy_on_real_columns() -> None:
    real = load_breast_cancer().data
    found = number_columns(real, Datatype.FP64)
    np.testing.assert_allclose(found.mean, real.mean(axis=0))
    np.testing.assert_allclose(found.std, real.std(axis=0))
    np.testing.assert_array_equal(found.lowest, real.min(axis=0))
    np.testing.assert_array_equal(found.highest, real.max(axis=0))
    np.testing.assert_array_equal(found.lo, np.quantile(real, 0.001, axis=0, method="inverted_cdf"))
    np.testing.assert_array_equal(found.hi, np.quantile(real, 0.999, axis=0, method="inverted_cdf"))
    np.testing.assert_array_equal(found.counts.sum(axis=1), np.full(30, 569))
    assert found.missing.sum() == found.infinite.sum() == 0


def test_the_bins_are_of_equal_width_between_the_edges_and_the_outer_codes_are_outside() -> None:
    rows = np.arange(100_000.0)[:, None]
    found = number_columns(rows, Datatype.FP64)
    assert (found.lo[0], found.hi[0]) == (99, 99_899)
    assert (found.counts[0, BELOW], found.counts[0, ABOVE]) == (99, 100)
    inside = found.counts[0, FIRST : LAST + 1]
    assert inside.min() >= 392
    assert inside.max() <= 394
    edge = np.array([[98.999], [99], [99_899], [99_900]])
    assert codes(edge, found.lo, found.scale).ravel().tolist() == [BELOW, FIRST, LAST, ABOVE]


def test_later_rows_are_counted_into_the_same_bins() -> None:
    real = load_breast_cancer().data
    found = number_columns(real, Datatype.FP64)
    halves = [count_codes(part, found.lo, found.scale)[0] for part in (real[:200], real[200:])]
    np.testing.assert_array_equal(halves[0] + halves[1], found.counts)
    shifted, missing = count_codes(np.vstack([real + 1e6, np.full((3, 30), NAN)]), found.lo, found.scale)
    assert shifted[:, ABOVE].tolist() == [569] * 30
    assert missing.tolist() == [3] * 30


def test_a_constant_has_one_bin_and_whatever_differs_lies_outside() -> None:
    found = column(3.5, 3.5, 3.5)
    assert stands(found) == {FIRST: 3}
    assert (found.lo[0], found.hi[0], found.std[0]) == (3.5, 3.5, 0)
    near = np.array([[np.nextafter(3.5, 0)], [3.5], [np.nextafter(3.5, 9)]])
    assert codes(near, found.lo, found.scale).ravel().tolist() == [BELOW, FIRST, ABOVE]


def test_nearly_constant_is_spread_over_all_its_range() -> None:
    found = column(*[0.0] * 4999, 16.0)
    assert (found.lo[0], found.hi[0]) == (0, 16)
    assert stands(found) == {FIRST: 4999, LAST: 1}


def test_missing_is_apart_and_an_all_missing_column_has_no_range() -> None:
    some = column(NAN, 1, 2, NAN)
    assert (some.missing[0], some.mean[0], some.lowest[0], some.highest[0]) == (2, 1.5, 1, 2)
    assert sum(stands(some).values()) == 2
    none = column(NAN, NAN)
    assert (none.missing[0], stands(none)) == (2, {})
    assert np.isnan([none.mean[0], none.std[0], none.lowest[0], none.lo[0], none.hi[0]]).all()
    assert count_codes(np.array([[5.0], [NAN]]), none.lo, none.scale)[0][0, ABOVE] == 1


def test_infinities_are_outside_and_in_no_moment() -> None:
    found = column(-INF, 1, 2, 3, INF, INF)
    assert (found.infinite[0], found.mean[0], found.lo[0], found.hi[0]) == (3, 2, 1, 3)
    assert stands(found) == {BELOW: 1, FIRST: 1, 127: 1, LAST: 1, ABOVE: 2}
    assert stands(column(INF, INF)) == {ABOVE: 2}


@pytest.mark.parametrize("values", [(-1.7e308, 0, 1.7e308), (0, 5e-324), (1e300, 1.0000000001e300), (7.0,)])
def test_extreme_numbers_are_all_counted(values: tuple[float, ...]) -> None:
    assert sum(stands(column(*values)).values()) == len(values)


def test_each_datatype_is_read_as_the_numbers_it_stands_for() -> None:
    bits = (np.array([1.5, -2.0, 3.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)[:, None]
    assert number_columns(bits, Datatype.BF16).mean[0] == pytest.approx(2.5 / 3)
    assert number_columns(np.array([[0], [255]], np.uint8), Datatype.UINT8).highest[0] == 255
    assert number_columns(np.zeros((2, 0), np.float32), Datatype.FP32).counts.shape == (0, 256)


def test_a_wide_tensor_gives_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 101)).astype(np.float32)
    whole = number_columns(rows, Datatype.FP32)
    monkeypatch.setattr("deployments.profiles.numbers.BLOCK_VALUES", 350)
    np.testing.assert_array_equal(number_columns(rows, Datatype.FP32).counts, whole.counts)
