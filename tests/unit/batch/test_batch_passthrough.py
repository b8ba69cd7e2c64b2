"""What passes through comes out exactly as it went in, or the run says that it can't: every Arrow type, with its extremes."""

from __future__ import annotations

import tempfile
from datetime import datetime
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.errors import BadInput
from tests.support.batch_parts import echo

ROWS = 4
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}


def whole(bits: int, *, signed: bool = True) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.one_of(st.sampled_from([low, high, 0]), st.integers(low, high))


def of_bits(kind: pa.DataType, bits: int) -> st.SearchStrategy[pa.Array]:
    """Any stored number, whatever it stands for."""
    stored = pa.int32() if bits == 32 else pa.int64()
    numbers = st.lists(st.one_of(st.none(), whole(bits)), min_size=ROWS, max_size=ROWS)
    return numbers.map(lambda values: pa.array(values, stored).view(kind))


def plain(kind: pa.DataType, values: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.Array]:
    return st.lists(st.one_of(st.none(), values), min_size=ROWS, max_size=ROWS).map(lambda found: pa.array(found, kind))


def decimals(kind: pa.DataType) -> st.SearchStrategy[pa.Array]:
    most = 10**kind.precision - 1
    digits = st.one_of(st.sampled_from([most, -most, 0]), st.integers(-most, most))
    return plain(kind, digits.map(lambda number: Decimal(number).scaleb(-kind.scale, Context(prec=80))))


def floats(bits: int, kind: pa.DataType) -> st.SearchStrategy[pa.Array]:
    made = getattr(np, f"float{bits}")
    return plain(kind, st.floats(width=bits).map(made))  # type: ignore[call-overload]


TEXTS = st.text(max_size=5)
BYTES = st.binary(max_size=5)
FLAT: tuple[st.SearchStrategy[pa.Array], ...] = (
    st.just(pa.nulls(ROWS)),
    plain(pa.bool_(), st.booleans()),
    *(plain(getattr(pa, f"int{bits}")(), whole(bits)) for bits in (8, 16, 32, 64)),
    *(plain(getattr(pa, f"uint{bits}")(), whole(bits, signed=False)) for bits in (8, 16, 32, 64)),
    *(floats(bits, getattr(pa, f"float{bits}")()) for bits in (16, 32, 64)),
    *(plain(kind, TEXTS) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    *(plain(kind, BYTES) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
    plain(pa.binary(3), st.binary(min_size=3, max_size=3)),
    of_bits(pa.date32(), 32),
    *(of_bits(kind, 64) for kind in (pa.timestamp("ns"), pa.timestamp("us"), pa.timestamp("ms"), pa.timestamp("us", "UTC"))),
    *(of_bits(pa.duration(unit), 64) for unit in ("s", "ms", "us", "ns")),
    plain(pa.date64(), st.integers(-(10**6), 10**6).map(lambda day: day * 86_400_000)),
    plain(pa.timestamp("s"), st.integers(-(2**63) // 1000 + 1, 2**63 // 1000 - 1)),
    plain(pa.time32("s"), st.integers(0, 86_399)),
    plain(pa.time32("ms"), st.integers(0, 86_399_999)),
    plain(pa.time64("us"), st.integers(0, 86_399_999_999)),
    plain(pa.time64("ns"), st.integers(0, 86_399_999_999_999)),
    *(decimals(kind) for kind in (pa.decimal32(9, 2), pa.decimal64(18, 0), pa.decimal128(38, 10), pa.decimal256(76, 3))),
    plain(pa.uuid(), st.binary(min_size=16, max_size=16)),
)
flat = st.one_of(*FLAT)


@st.composite
def encoded(draw: st.DrawFn) -> pa.Array:
    """Dictionaries, also with a null among their values."""
    values = draw(st.one_of(plain(pa.string(), TEXTS), plain(pa.int64(), whole(64)), plain(pa.binary(), BYTES)))
    places = draw(st.lists(st.one_of(st.none(), st.integers(0, ROWS - 1)), min_size=ROWS, max_size=ROWS))
    return pa.DictionaryArray.from_arrays(pa.array(places, pa.int8()), values)


@st.composite
def nested(draw: st.DrawFn, inner: st.SearchStrategy[pa.Array]) -> pa.Array:
    values = draw(inner)
    valid = draw(st.lists(st.booleans(), min_size=ROWS, max_size=ROWS))
    gone = pa.array([not each for each in valid])
    ends = sorted(draw(st.lists(st.integers(0, ROWS), min_size=ROWS - 1, max_size=ROWS - 1)))
    offsets = pa.array([0, *ends, ROWS], pa.int32())
    match draw(st.integers(0, 4)):
        case 0:
            return pa.StructArray.from_arrays([values, pa.array(range(ROWS))], ["a", "b.c"], mask=gone)
        case 1:
            return pa.ListArray.from_arrays(offsets, values, mask=gone)
        case 2:
            return pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), values, mask=gone)
        case 3:
            return pa.FixedSizeListArray.from_arrays(values, 1, mask=gone)
        case _:
            return pa.MapArray.from_arrays(offsets, pa.array(["k"] * ROWS), values)


columns = st.recursive(st.one_of(flat, encoded()), nested, max_leaves=3)


def bits_of(table: pa.Table) -> list[str]:
    """The values, told so that no two that differ look alike: NaN is NaN, and signs of zeros show."""
    return [repr(value) for value in stored(table["k"].combine_chunks())]


def stored(column: pa.Array) -> list[Any]:
    """Every value as what it is stored as: Python's own times have less room."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return stored(column.storage)
    if pa.types.is_dictionary(kind):
        return stored(column.cast(kind.value_type))
    if pa.types.is_temporal(kind):  # in nanoseconds: files may differ in the unit
        numbers = column.view(pa.int32() if kind.bit_width == 32 else pa.int64()).to_pylist()
        unit = NANOSECONDS[kind.unit] if hasattr(kind, "unit") else 1
        return [None if number is None else number * unit for number in numbers]
    if pa.types.is_struct(kind):
        parts = [stored(part) for part in column.flatten()]
        return [
            tuple(row) if valid else None
            for row, valid in zip(zip(*parts, strict=True), column.is_valid().to_pylist(), strict=True)
        ]
    if pa.types.is_map(kind):
        column = pa.ListArray.from_arrays(column.offsets, pa.StructArray.from_arrays([column.keys, column.items], ["k", "v"]))
        return stored(column)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [None if not row.is_valid else stored(row.values) for row in column]
    return [alike(value) for value in column.to_pylist()]


def alike(value: Any) -> Any:
    """A number in one form whatever its type."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else value.normalize(Context(prec=80))
    return int(value) if isinstance(value, float) and value.is_integer() and str(value) != "-0.0" else value


def refusal(folder: Path, spec: dict[str, Any]) -> str:
    """Why files whose types differ don't go together; empty where they do."""
    try:
        echo(folder / "in", folder / "tried", input=spec)
    except BadInput as error:
        return error.what
    return ""


@pytest.mark.thorough
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(columns, min_size=1, max_size=2), st.booleans(), st.booleans())
def test_pass_through_is_exact_or_refused(parts: list[pa.Array], keeps_types: bool, bad: bool) -> None:
    """A file a part: where the types differ, the columns go together exactly or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        before: list[str] = []
        for at, part in enumerate(parts):
            table = pa.table({"x": pa.array([None if bad else 1.0, 2.0, 3.0, 4.0], pa.float32()), "k": part})
            path = Path(folder) / f"in/{at}.parquet"
            try:
                pq.write_table(table, path, store_schema=keeps_types)
            except pa.ArrowException:
                return  # no file can hold it
            before += bits_of(pq.read_table(path).slice(1 if bad else 0))
        spec = {"passthrough": ["k"]}
        if len({str(part.type) for part in parts}) > 1 and (told := refusal(Path(folder), spec)):
            assert "column k" in told
            return
        manifest = echo(Path(folder) / "in", Path(folder) / "out", input=spec)
        (written,) = (Path(folder) / "out").glob("*.parquet")
        after = bits_of(pq.read_table(written))
        assert after == before, ([str(part.type) for part in parts], [part.to_pylist() for part in parts], after)
        assert manifest.written == len(before)


def int96(path: Path, column: pa.Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"x": pa.array([1.0] * len(column), pa.float32()), "k": column})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)


FAR = [datetime(9999, 12, 31), None, datetime(1, 1, 1), datetime(2024, 1, 1, 1, 2, 3, 4)]  # noqa: DTZ001


@pytest.mark.parametrize(
    "column",
    [
        pa.array(FAR, pa.timestamp("us")),
        pa.array([FAR, None, [], FAR[:1]], pa.list_(pa.timestamp("us"))),
        pa.array([{"at": at} for at in FAR], pa.struct([("at", pa.timestamp("us"))])),
    ],
)
def test_far_dates_in_96_bits_are_as_spark_wrote_them(tmp_path: Path, column: pa.Array) -> None:
    int96(tmp_path / "in/a.parquet", column)
    echo(tmp_path / "in", tmp_path / "out", input={"passthrough": ["k"]})
    assert pq.read_table(tmp_path / "out")["k"].to_pylist() == column.to_pylist()


FINE = pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns"))


def test_nanoseconds_in_96_bits_stay_and_do_not_mix_with_far_dates(tmp_path: Path) -> None:
    int96(tmp_path / "in/a.parquet", FINE)
    echo(tmp_path / "in", tmp_path / "out", input={"passthrough": ["k"]})
    assert pq.read_table(tmp_path / "out")["k"].cast(pa.int64()).to_pylist() == FINE.cast(pa.int64()).to_pylist()
    int96(tmp_path / "in/b.parquet", pa.array(FAR, pa.timestamp("us")))
    assert echo(tmp_path / "in", tmp_path / "none").written == 6  # nobody asked for the column
    with pytest.raises(BadInput, match=r"column k holds a time that timestamp\[ns\].*can't hold"):
        echo(tmp_path / "in", tmp_path / "both", input={"passthrough": ["k"]})
    (tmp_path / "in/a.parquet").rename(tmp_path / "in/c.parquet")
    with pytest.raises(BadInput, match=r"column k holds a time that timestamp\[us\].*can't hold"):
        echo(tmp_path / "in", tmp_path / "finer", input={"passthrough": ["k"]})


def test_null_beside_a_map_stays_null(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for at, column in enumerate([pa.nulls(1), pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))]):
        pq.write_table(pa.table({"x": pa.array([1.0], pa.float32()), "k": column}), tmp_path / f"in/{at}.parquet")
    echo(tmp_path / "in", tmp_path / "out", input={"passthrough": ["k"]})
    assert pq.read_table(tmp_path / "out")["k"].to_pylist() == [None, [("k", 1)]]
