"""Columns become tensors; rows that can't are named with their reason."""

from __future__ import annotations

import math
from datetime import date
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.batch.read.columns import bind
from consumers.batch.read.tensors import TensorRows, to_tensors
from consumers.batch.spec import BatchInput


def signature(datatype: Datatype = Datatype.FP32, *shape: int, name: str = "x") -> Signature:
    return Signature(inputs=(TensorSpec(name=name, datatype=datatype, shape=(-1, *shape)),), outputs=())


def convert(batch: pa.RecordBatch, asked: Signature, refuse_nan: bool = True, **spec: object) -> TensorRows:
    bindings = bind(batch.schema, asked, BatchInput.model_validate({"path": "in", **spec}), where="in/a.parquet")
    return to_tensors(batch, bindings, refuse_nan=refuse_nan)


def batch(**columns: pa.Array) -> pa.RecordBatch:
    return pa.record_batch(columns)


def refused(table: pa.RecordBatch, asked: Signature, **spec: object) -> str:
    with pytest.raises(BadInput) as caught:
        convert(table, asked, **spec)
    return str(caught.value)


def test_a_fixed_size_list_is_not_copied() -> None:
    values = pa.array(np.arange(12, dtype=np.float32))
    rows = convert(batch(x=pa.FixedSizeListArray.from_arrays(values, 3)), signature(Datatype.FP32, 3))
    assert rows.good is None
    assert rows.tensors["x"].tolist() == np.arange(12.0).reshape(4, 3).tolist()
    assert rows.tensors["x"].__array_interface__["data"][0] == values.buffers()[1].address


def test_a_slice_of_lists_keeps_its_own_rows() -> None:
    lists = pa.array([[float(at), 0.0] for at in range(6)], pa.list_(pa.float32())).slice(2, 3)
    assert convert(batch(x=lists), signature(Datatype.FP32, 2)).tensors["x"][:, 0].tolist() == [2, 3, 4]


def test_columns_become_features_in_the_order_given() -> None:
    table = batch(a=pa.array([1, 2], pa.int16()), b=pa.array([0.5, 1.5], pa.float32()))
    rows = convert(table, signature(Datatype.FP32, 2), columns={"x": ["b", "a"]})
    assert rows.tensors["x"].dtype == np.float32
    assert rows.tensors["x"].tolist() == [[0.5, 1], [1.5, 2]]


@pytest.mark.parametrize(
    ("column", "shape", "expected"),
    [
        (pa.array([1, 2, 3], pa.int32()), (), [1, 2, 3]),
        (pa.array([1, 2, 3], pa.int32()), (1,), [[1], [2], [3]]),
        (pa.array([1, 2, 3], pa.int8()), (-1,), [[1], [2], [3]]),
        (pa.array([[[1, 2], [3, 4]]], pa.list_(pa.list_(pa.int64()))), (2, 2), [[[1, 2], [3, 4]]]),
        (pa.array([[1, 2, 3, 4]], pa.list_(pa.int64())), (2, 2), [[[1, 2], [3, 4]]]),
        (pa.array([[1, 2]], pa.large_list(pa.int16())), (2,), [[1, 2]]),
        (pa.array([[1, 2]], pa.list_(pa.int16(), 2)), (-1,), [[1, 2]]),
        (pa.array([5, 6, 5], pa.int64()).dictionary_encode(), (), [5, 6, 5]),
    ],
)
def test_layouts(column: pa.Array, shape: tuple[int, ...], expected: object) -> None:
    rows = convert(batch(x=column), signature(Datatype.INT64, *shape))
    assert rows.tensors["x"].dtype == np.int64
    assert rows.tensors["x"].tolist() == expected


def test_a_fixed_shape_tensor_keeps_its_shape() -> None:
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    rows = convert(batch(x=pa.FixedShapeTensorArray.from_numpy_ndarray(images)), signature(Datatype.FP32, 3, 4))
    assert np.array_equal(rows.tensors["x"], images)


def test_texts_become_bytes() -> None:
    rows = convert(batch(x=pa.array(["a", "é"])), signature(Datatype.BYTES))
    assert rows.tensors["x"].tolist() == [b"a", "é".encode()]


def test_bad_rows_are_named_and_the_others_kept_in_order() -> None:
    lists = [[1.0, 2.0], None, [3.0], [4.0, None], [math.nan, 5.0], [6.0, 7.0], [math.inf, -math.inf]]
    rows = convert(batch(x=pa.array(lists, pa.list_(pa.float32()))), signature(Datatype.FP32, 2))
    assert rows.bad == {
        1: "column x is null",
        2: "column x has 1 values, not 2",
        3: "column x holds a null",
        4: "input x holds NaN",
    }
    assert rows.good is not None
    assert rows.good.tolist() == [0, 5, 6]
    assert rows.tensors["x"].tolist() == [[1, 2], [6, 7], [math.inf, -math.inf]]


def test_nan_passes_where_it_is_allowed() -> None:
    rows = convert(batch(x=pa.array([math.nan, 1.0], pa.float32())), signature(), refuse_nan=False)
    assert not rows.bad
    assert np.isnan(rows.tensors["x"][0])


def test_where_nan_is_allowed_what_is_missing_is_nan_and_a_missing_list_is_not() -> None:
    def kept(column: pa.Array, asked: Signature, **spec: object) -> list[object]:
        rows = convert(batch(x=column), asked, refuse_nan=False, **spec)
        assert rows.tensors["x"].dtype == np.float32
        return [rows.bad, np.nan_to_num(rows.tensors["x"], nan=-1).tolist()]

    flat, pair = signature(), signature(Datatype.FP32, 2)
    assert kept(pa.array([None, math.nan, math.inf], pa.float32()), flat) == [{}, [-1, -1, float(np.finfo(np.float32).max)]]
    assert kept(pa.array([None, 7], pa.int16()), flat) == [{}, [-1, 7]]
    assert kept(pa.array([None, True]), flat) == [{}, [-1, 1]]
    assert kept(pa.array([None, 1.5, 1e39]), flat, narrow=True) == [{2: "input x holds a value that FP32 can't hold"}, [-1, 1.5]]
    assert kept(pa.array([[1, None], None], pa.list_(pa.float32())), pair) == [{1: "column x is null"}, [[1, -1]]]
    tensor = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [2]), pa.array([[None, 2.0]], pa.list_(pa.float32(), 2))
    )
    assert kept(tensor, pair) == [{}, [[-1, 2]]]
    columns = batch(a=pa.array([1.0, None], pa.float32()), b=pa.array([None, 2], pa.int8()))
    rows = convert(columns, pair, refuse_nan=False, columns={"x": ["a", "b"]})
    assert not rows.bad
    np.testing.assert_array_equal(rows.tensors["x"], np.array([[1, math.nan], [math.nan, 2]], np.float32))
    whole = convert(batch(x=pa.array([None, 7], pa.int64())), signature(Datatype.INT64), refuse_nan=False)
    assert whole.bad == {0: "column x is null"}


def test_null_features_and_null_fixed_size_lists() -> None:
    table = batch(a=pa.array([1.0, None], pa.float32()), b=pa.array([1.0, 2.0], pa.float32()))
    assert convert(table, signature(Datatype.FP32, 2), columns={"x": ["a", "b"]}).bad == {1: "column a is null"}
    fixed = pa.array([None, [1.0, 2.0], None, [3.0, None]], pa.list_(pa.float32(), 2))
    rows = convert(batch(x=fixed), signature(Datatype.FP32, 2))
    assert rows.bad == {0: "column x is null", 2: "column x is null", 3: "column x holds a null"}
    assert rows.tensors["x"].tolist() == [[1, 2]]


def test_nested_lists_name_the_row_and_not_the_inner_list() -> None:
    lists = [[[1, 2], [3, 4]], [[1, 2], [3]], [[1, 2]], [[1, None], [3, 4]], None, [[1, 2], None], [[5, 6], [7, 8]]]
    rows = convert(batch(x=pa.array(lists, pa.list_(pa.list_(pa.int32())))), signature(Datatype.INT32, 2, 2))
    assert sorted(rows.bad) == [1, 2, 3, 4, 5]
    assert rows.tensors["x"].tolist() == [lists[0], lists[6]]


def test_declared_range() -> None:
    rows = convert(batch(x=pa.array([0.0, 300.0, -1.0, 255.0], pa.float32())), signature(), ranges={"x": [0, 255]})
    assert rows.bad == {1: "input x holds a value outside [0, 255]", 2: "input x holds a value outside [0, 255]"}


def test_narrowing_is_refused_until_declared_and_then_checked() -> None:
    doubles = batch(x=pa.array([0.5, 1e300], pa.float64()))
    assert "narrow: true" in refused(doubles, signature())
    rows = convert(doubles, signature(), narrow=True)
    assert rows.bad == {1: "input x holds a value that FP32 can't hold"}
    whole = convert(batch(x=pa.array([1.0, 1.5, 300.0], pa.float64())), signature(Datatype.UINT8), narrow=True)
    assert sorted(whole.bad) == [1, 2]
    assert whole.tensors["x"].tolist() == [1]


def test_a_missing_column_names_what_is_there() -> None:
    told = refused(batch(a=pa.array([1.0]), b=pa.array([2.0])), signature())
    assert "needs column x" in told
    assert "the columns are a, b" in told
    assert "in/a.parquet" in told


@pytest.mark.parametrize(
    ("column", "asked", "words"),
    [
        (pa.array(["1"]), signature(), "column x is string, and input x is FP32"),
        (pa.array([1.0]), signature(Datatype.FP32, 3), "one value a row"),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), signature(Datatype.FP32, 3), "shape [-1, 3]"),
        (pa.array([[1.0]], pa.list_(pa.float32())), signature(Datatype.FP32, -1), "fixed size"),
        (pa.array([1]), signature(Datatype.BYTES), "column x is int64, and input x is BYTES"),
    ],
)
def test_a_wrong_column_is_refused_before_any_work(column: pa.Array, asked: Signature, words: str) -> None:
    assert words in refused(batch(x=column), asked)


def test_unknown_inputs_and_passthrough_columns_are_refused() -> None:
    table = batch(x=pa.array([1.0], pa.float32()))
    assert "no input y; it has x" in refused(table, signature(), columns={"y": "x"})
    assert "passthrough names id; the columns are x" in refused(table, signature(), passthrough=["id"])


values = st.one_of(st.none(), st.floats(width=32))
cells = st.one_of(st.none(), st.lists(values, min_size=2, max_size=2), st.lists(values, max_size=4))


@pytest.mark.thorough
@given(st.lists(cells, max_size=30))
def test_every_row_is_either_scored_or_named(lists: list[list[float | None] | None]) -> None:
    rows = convert(batch(x=pa.array(lists, pa.list_(pa.float32()))), signature(Datatype.FP32, 2))
    whole = [
        at
        for at, row in enumerate(lists)
        if row is not None and len(row) == 2 and all(v is not None and not math.isnan(v) for v in row)
    ]
    kept = list(range(len(lists))) if rows.good is None else rows.good.tolist()
    assert kept == whole
    assert sorted(rows.bad) == [at for at in range(len(lists)) if at not in set(whole)]
    assert rows.tensors["x"].tolist() == [lists[at] for at in whole]


@pytest.mark.parametrize(
    ("column", "datatype", "expected"),
    [
        (pa.array([date(1970, 1, 2), date(9999, 12, 31)]), Datatype.INT32, [1, 2932896]),
        (pa.array([1, -5], pa.int64()).cast(pa.timestamp("us", "UTC")), Datatype.INT64, [1, -5]),
        (pa.array([1, 2], pa.int64()).cast(pa.duration("ms")), Datatype.INT64, [1, 2]),
        (pa.array([1, 2], pa.int32()).cast(pa.time32("s")), Datatype.FP64, [1.0, 2.0]),
        (pa.array([Decimal("0.07"), Decimal("-1.50")], pa.decimal128(15, 2)), Datatype.FP64, [0.07, -1.5]),
        (pa.array([Decimal("7"), Decimal("8")], pa.decimal128(9, 0)), Datatype.INT64, [7, 8]),
        (pa.array(["a", "b"], pa.string_view()), Datatype.BYTES, [b"a", b"b"]),
    ],
)
def test_dates_times_and_decimals_are_the_numbers_that_they_are_stored_as(
    column: pa.Array, datatype: Datatype, expected: list[object]
) -> None:
    assert convert(batch(x=column), signature(datatype)).tensors["x"].tolist() == expected
    lists = pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), column)
    assert convert(batch(x=lists), signature(datatype, 2)).tensors["x"].tolist() == [expected]


def test_decimals_that_may_lose_digits_ask_for_narrow_and_are_checked_row_by_row() -> None:
    long = batch(x=pa.array([Decimal("0.1"), Decimal("2"), None, Decimal("1e30")], pa.decimal128(38, 1)))
    assert "narrow: true" in refused(long, signature(Datatype.FP64))
    assert "narrow: true" in refused(long, signature(Datatype.INT64))
    rows = convert(long, signature(Datatype.INT64), narrow=True)
    assert rows.bad == {
        0: "column x holds a value that INT64 can't hold",
        2: "column x is null",
        3: "column x holds a value that INT64 can't hold",
    }
    assert rows.tensors["x"].tolist() == [2]
    two = Signature(inputs=(signature(Datatype.FP32).inputs[0], signature(Datatype.INT64, name="n").inputs[0]), outputs=())
    rows = convert(long, two, narrow=True, columns={"n": "x"})
    assert {name: tensor.tolist() for name, tensor in rows.tensors.items()} == {"x": [2.0], "n": [2]}
    assert convert(batch(x=pa.array([date(1970, 1, 2)])), signature(), narrow=True).tensors["x"].tolist() == [1.0]
    assert "narrow: true" in refused(batch(x=pa.array([date(1970, 1, 2)])), signature())


def test_nulls_inside_a_dictionary_are_nulls() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None], pa.int8()), pa.array([1.0, None, 3.0], pa.float32()))
    rows = convert(batch(x=column), signature())
    assert rows.bad == {1: "column x is null", 3: "column x is null"}
    assert rows.tensors["x"].tolist() == [1.0, 3.0]


def test_a_name_that_comes_twice_is_told() -> None:
    table = pa.RecordBatch.from_arrays([pa.array([1.0], pa.float32())] * 2, names=["x", "x"])
    assert "several columns x" in refused(table, signature())


@pytest.mark.parametrize("wanted", [Datatype.INT32, Datatype.INT64, Datatype.UINT32, Datatype.UINT64], ids=str)
def test_a_number_just_above_the_largest_is_named_and_wraps_around_nowhere(wanted: Datatype) -> None:
    limits = np.iinfo(wanted.value.lower())
    below, above = np.nextafter(float(limits.max) + 1, 0), float(int(limits.max) + 1)
    rows = convert(batch(x=pa.array([float(limits.min), np.floor(below), above])), signature(wanted), narrow=True)
    assert rows.bad == {2: f"input x holds a value that {wanted} can't hold"}
    assert rows.tensors["x"].tolist() == [int(limits.min), int(np.floor(below))]


def test_a_float_of_32_bits_just_above_the_largest_is_named_too() -> None:
    rows = convert(batch(x=pa.array([2.0**31, 1.0], pa.float32())), signature(Datatype.INT32), narrow=True)
    assert (rows.bad, rows.tensors["x"].tolist()) == ({0: "input x holds a value that INT32 can't hold"}, [1])


NESTED = pa.list_(pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("column", "shape", "answered"),
    [
        (pa.array([[[1.0]], [[1.0], [2.0]]], NESTED), (), [1.0]),
        (pa.array([[[[1.0]], [[2.0]]], [[[1.0], [3.0]], [[2.0]]]], pa.list_(NESTED)), (2,), [[1.0, 2.0]]),
    ],
)
def test_lists_that_are_nested_deeper_than_the_input_are_taken_where_they_fit(
    column: pa.Array, shape: tuple[int, ...], answered: list[object]
) -> None:
    rows = convert(batch(x=column), signature(Datatype.FP32, *shape))
    assert (list(rows.bad), rows.tensors["x"].tolist()) == ([1], answered)
