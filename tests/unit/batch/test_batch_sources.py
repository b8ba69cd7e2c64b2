"""Datasets as others write them: what is data, hive folders, files by different writers, filters and files that changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from cluster.errors import BadInput
from cluster.signature import Datatype
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from tests.support.batch_parts import echo, echo_pin

X = pa.array([1.0, 2.0], pa.float32())


def write(path: Path, *, x: pa.Array = X, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": x, **columns}), path)


def output(path: Path) -> pa.Table:
    return ds.dataset(path, partitioning="hive").to_table()


def refused(source: Path, **spec: Any) -> str:
    """What the run says that does not begin, having made nothing."""
    with pytest.raises(BadInput) as caught:
        echo(source, source.parent / "refused", input=spec)
    assert RunHistory(locate(str(source.parent / "refused"))).all() == ()
    return str(caught.value)


READERS: list[Callable[[Path], list[Any]]] = [
    lambda path: output(path)["k"].to_pylist(),
    lambda path: list(pd.read_parquet(path)["k"]),
    lambda path: pl.read_parquet(path, hive_partitioning=True)["k"].to_list(),
    lambda path: [k for (k,) in duckdb.read_parquet(f"{path}/**/*.parquet", hive_partitioning=True).project("k").fetchall()],
]


def test_hive_values_are_decoded_and_encoded_once(tmp_path: Path) -> None:
    texts = ["São Paulo", "a/b", "a%2Fb", "x=y", "a+b", "a:b", "100%"]
    write(tmp_path / "in/a.parquet", x=pa.array([1.0] * 7, pa.float32()), k=texts)
    source = tmp_path / "in"
    for turn in range(3):  # each reads what the one before wrote
        target = tmp_path / f"out{turn}"
        echo(source, target, input={"passthrough": ["x", "k"]}, output={"partition_by": ["k"]})
        for read in READERS:
            assert sorted(read(target)) == sorted(texts)
        source = target


def test_a_null_key_is_null_and_changes_no_type(tmp_path: Path) -> None:
    write(tmp_path / "in/day=1/a.parquet")
    write(tmp_path / "in/day=__HIVE_DEFAULT_PARTITION__/a.parquet")
    echo(tmp_path / "in", tmp_path / "out", input={"passthrough": ["day"]})
    table = output(tmp_path / "out")
    assert table.schema.field("day").type == pa.int64()
    assert sorted(table["day"].to_pylist(), key=str) == [1, 1, None, None]
    echo(tmp_path / "in", tmp_path / "folders", input={"passthrough": ["x", "day"]}, output={"partition_by": ["day"]})
    assert sorted(output(tmp_path / "folders")["day"].to_pylist(), key=str) == [1, 1, None, None]
    assert echo(tmp_path / "in", tmp_path / "one", input={"filter": [["day", "=", 1]]}).written == 2


def test_what_counts_as_data(tmp_path: Path) -> None:
    write(tmp_path / "in/_year=2024/a.parquet")
    for name in (
        "_SUCCESS",
        ".a.parquet.crc",
        "a.parquet._COPYING_",
        "._COPYING_",
        "notes.csv",
        "_temporary/0/b.parquet",
        "_metadata",
    ):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"no Parquet")
    manifest = echo(tmp_path / "in", tmp_path / "out", input={"passthrough": ["_year"]})
    assert (manifest.written, manifest.others, manifest.damaged) == (2, 7, ())
    assert output(tmp_path / "out")["_year"].to_pylist() == [2024, 2024]
    write(tmp_path / "parts/part-00000")
    assert "1 other files are there, e.g. part-00000" in refused(tmp_path / "parts")
    assert echo(tmp_path / "parts", tmp_path / "any", input={"files": "part-*"}).written == 2
    assert echo(f"{tmp_path}/in/**", tmp_path / "glob").written == 2


TEXT = ["b", None]
TEXTS = [
    pa.array(TEXT),
    pa.array(TEXT, pa.large_string()),
    pa.array(TEXT, pa.string_view()),
    pa.array(TEXT).dictionary_encode(),
    pa.array(TEXT).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.large_string())),
]


def test_files_by_different_writers_go_together(tmp_path: Path) -> None:
    for at, column in enumerate([pa.nulls(2), *TEXTS, *TEXTS[::-1]]):
        number = pa.array([at, None], pa.int32() if at % 2 else pa.int64())
        feature = pa.array([1.5, 2.5], pa.float64()) if at % 3 else pa.array([1, 2], pa.int64())
        write(tmp_path / f"in/{at:02}.parquet", x=feature, k=column, n=number)
    spec = {"passthrough": ["k", "n"], "narrow": True, "filter": [["k", "=", "b"]]}
    assert echo(tmp_path / "in", tmp_path / "filtered", input=spec).written == 10
    echo(tmp_path / "in", tmp_path / "out", input=spec | {"filter": []})
    table = output(tmp_path / "out")
    assert table["k"].to_pylist() == [None, None, *(TEXT * 10)]
    assert table["n"].to_pylist() == [number for at in range(11) for number in (at, None)]
    assert table["y"].to_pylist() == [value for at in range(11) for value in ((1.5, 2.5) if at % 3 else (1.0, 2.0))]


def test_values_that_a_common_type_would_change_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "in/a.parquet", n=pa.array([0.5, 1.5]))
    write(tmp_path / "in/b.parquet", n=pa.array([2**53 + 1, 0]))
    with pytest.raises(BadInput, match=r"column n \(int64\) holds a value that double"):
        echo(tmp_path / "in", tmp_path / "out", input={"passthrough": ["n"]})
    write(tmp_path / "in/b.parquet", n=["text", "text"])
    assert "column n is string here and double in" in refused(tmp_path / "in", passthrough=["n"])
    assert echo(tmp_path / "in", tmp_path / "unused").written == 4


def test_columns_that_nobody_uses_do_not_matter_even_in_quarantine(tmp_path: Path) -> None:
    bad = pa.array([None, 2.0], pa.float32())
    write(tmp_path / "in/a.parquet", x=bad, other=[1, 2])
    write(tmp_path / "in/b.parquet", x=bad, other=["text", "text"], more=[[1], [2]])
    twice = pa.Table.from_arrays([bad, pa.array([1, 2]), pa.array(["a", "b"])], names=["x", "twice", "twice"])
    pq.write_table(twice, tmp_path / "in/c.parquet")
    manifest = echo(tmp_path / "in", tmp_path / "out")
    assert (manifest.written, manifest.quarantined) == (3, 3)
    table = pq.read_table(tmp_path / "out.quarantine")
    assert table["other"].to_pylist() == ["1", "text", None]
    assert (table["twice"].to_pylist(), table["twice_2"].to_pylist()) == ([None, None, 1], [None, None, "a"])
    again = echo(tmp_path / "out.quarantine", tmp_path / "again")
    assert again.quarantined == 3
    table = pq.read_table(tmp_path / "again.quarantine")
    assert table["_reason"].to_pylist() == table["_reason_2"].to_pylist() == ["column x is null"] * 3
    assert [Path(path).name for path in table["_file_2"].to_pylist()] == ["a.parquet", "b.parquet", "c.parquet"]
    assert "has 2 columns twice" in refused(tmp_path / "in", passthrough=["twice"], path=str(tmp_path / "in/c.parquet"))


@pytest.mark.parametrize(
    ("term", "told"),
    [
        (["day", "=", 5], "column day is date32[day], and 5 is no value of that type"),
        (["day", "=", "yesterday"], "column day is date32[day], and 'yesterday' is no value"),
        (["name", "=", date(2024, 1, 1)], "column name is string, and datetime.date(2024, 1, 1) is no value"),
        (["month", "=", 1], "column month is string, and 1 is no value of that type (put the value in quotes"),
        (["name", "in", ["a", False]], "column name is string, and False is no value"),
        (["flag", "=", "NO"], "column flag is bool, and 'NO' is no value"),
        (["n", "=", "1"], "column n is int64, and '1' is no value"),
        (["at", ">", "2024-01-01"], "column at is timestamp[us, tz=UTC], and '2024-01-01' is no value"),
        (["nothing", "=", 1], "there is no column nothing (the columns are x, day"),
        (["n", "in", 1], "needs a list"),
        (["n", "like", 1], "'like' is none of =, =="),
    ],
)
@pytest.mark.parametrize("on_damage", ["fail", "quarantine"])
def test_a_filter_of_the_wrong_type_is_refused_before_work_starts(
    tmp_path: Path, term: list[Any], told: str, on_damage: str
) -> None:
    at = pa.array([datetime(2024, 1, 1)] * 2, pa.timestamp("us", "UTC"))  # noqa: DTZ001
    write(tmp_path / "in/month=01/a.parquet", day=[date(2024, 1, 1)] * 2, name=["a", "b"], flag=[True, False], n=[1, 2], at=at)
    assert told in refused(tmp_path / "in", filter=[term], on_damage=on_damage)


@pytest.mark.parametrize(
    ("term", "rows"),
    [
        (["day", "=", "2024-01-01"], 1),
        (["day", "in", ["2024-01-01", "2024-01-02"]], 2),
        (["at", ">=", "2024-01-02T00:00:00Z"], 1),
        (["month", "=", "01"], 2),
        (["n", ">", 1.5], 1),
        (["price", "<", 1], 1),
        (["missing", "!=", "a"], 0),
    ],
)
def test_filters_by_the_columns_own_type(tmp_path: Path, term: list[Any], rows: int) -> None:
    write(
        tmp_path / "in/month=01/a.parquet",
        day=[date(2024, 1, 1), date(2024, 1, 2)],
        at=pa.array([datetime(2024, 1, 1), datetime(2024, 1, 2)], pa.timestamp("us", "UTC")),  # noqa: DTZ001
        n=[1, 2],
        price=pa.array(["0.99", "1.00"]).cast(pa.decimal128(5, 2)),
        missing=pa.nulls(2),
    )
    write(
        tmp_path / "in/month=01/none.parquet", x=X[:0], **{name: pa.nulls(0) for name in ("day", "at", "n", "price", "missing")}
    )
    manifest = echo(tmp_path / "in", tmp_path / "out", input={"filter": [term], "passthrough": ["month"]})
    assert manifest.written == rows


def test_only_new_sees_a_file_that_was_rewritten_with_the_same_size(tmp_path: Path) -> None:
    victim = tmp_path / "in/a.parquet"
    spec: dict[str, Any] = {"input": {"only_new": True}, "output": {"mode": "append"}}
    write(victim)
    write(tmp_path / "in/b.parquet")
    echo(tmp_path / "in", tmp_path / "out", **spec)
    before = victim.stat()
    write(victim, x=pa.array([1.0, 9.0], pa.float32()))
    os.utime(victim, ns=(before.st_mtime_ns, before.st_mtime_ns))  # only the footer tells
    assert victim.stat().st_size == before.st_size
    assert [path for path, _ in echo(tmp_path / "in", tmp_path / "out", **spec).inputs] == [str(victim)]
    later = before.st_mtime_ns + 1_000_000_000
    os.utime(victim, ns=(later, later))  # only the time tells
    assert [path for path, _ in echo(tmp_path / "in", tmp_path / "out", **spec).inputs] == [str(victim)]
    with pytest.raises(BadInput, match="no file is new"):
        echo(tmp_path / "in", tmp_path / "out", **spec)


@pytest.mark.parametrize(("order", "expected"), [("file", [10, 2, 1]), ("name", [1, 10, 2]), ("number", [1, 2, 10])])
def test_thousands_of_columns_by_a_pattern_in_a_declared_order(tmp_path: Path, order: str, expected: list[float]) -> None:
    (tmp_path / "in").mkdir()
    row = {f"f_{at}": pa.array([float(at)], pa.float32()) for at in (10, 2, 1)} | {"other": pa.array(["a"])}
    pq.write_table(pa.table(row), tmp_path / "in/a.parquet")
    spec = {"columns": {"x": "f_*"}, "pattern_order": order}
    echo(tmp_path / "in", tmp_path / "out", echo_pin(Datatype.FP32, 3), input=spec)
    assert pq.read_table(tmp_path / "out")["y"].to_pylist() == [expected]
    with pytest.raises(BadInput, match="order is not declared"):
        echo(tmp_path / "in", tmp_path / "none", echo_pin(Datatype.FP32, 3), input={"columns": {"x": "f_*"}})
    with pytest.raises(BadInput, match=r"no column is like g_\*"):
        echo(tmp_path / "in", tmp_path / "none", echo_pin(Datatype.FP32, 3), input=spec | {"columns": {"x": "g_*"}})
