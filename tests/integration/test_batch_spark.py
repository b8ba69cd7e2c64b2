"""What a batch writes, read back by Spark. Needs pyspark (the extra `bench`) and a whole JDK."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.batch_parts import echo

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]

KEYS = ["São Paulo", "a/b: 東京", "a%2Fb", "lost", None]  # Spark reads no folder of an empty text
COLUMNS: dict[str, pa.Array] = {
    "text": pa.array(["é", "", None, "b", "c"]),
    "large_text": pa.array(["é", "", None, "b", "c"], pa.large_string()),
    "word": pa.array(["x", "y", None, "x", "y"]).dictionary_encode(),
    "raw": pa.array([b"\x00\xff", b"", None, b"b", b"c"]),
    "whole": pa.array([-(2**63), 2**63 - 1, None, 0, 1]),
    "small": pa.array([-128, 127, None, 0, 1], pa.int8()),
    "sure": pa.array([True, False, None, True, False]),
    "price": pa.array([Decimal("-0.01"), Decimal("99999.99"), None, Decimal("0.00"), Decimal("1.50")], pa.decimal128(7, 2)),
    "day": pa.array([date(1, 1, 1), date(9999, 12, 31), None, date(1970, 1, 1), date(2026, 2, 28)]),
    "at": pa.array([datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), None, None, None, None], pa.timestamp("us", "UTC")),
    "numbers": pa.array([[1, None], [], None, [2], [3]], pa.list_(pa.int64())),
    "inner": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": None}, {"a": 2, "b": ""}, {"a": 3, "b": "y"}]),
}


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql", reason="pyspark is not there: pip install 'headrace[bench]'")
    from pyspark.errors import PySparkRuntimeError

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    asked = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    asked = asked.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    try:
        session = asked.config("spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", "1").getOrCreate()
    except PySparkRuntimeError as error:
        pytest.skip(f"Spark does not start: it needs a whole JDK ({error})")
    yield session
    session.stop()


def rows_of(frame: Any) -> list[dict[str, Any]]:
    return [row.asDict(recursive=True) for row in frame.orderBy("id").collect()]


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "none"])
def test_spark_reads_every_value_and_every_key_as_it_was(spark: Any, tmp_path: Path, compression: str) -> None:
    table = pa.table({"id": range(5), "x": pa.array([1.5, -0.0, 3.0, None, 5.0], pa.float32()), "key": KEYS, **COLUMNS})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in/a.parquet")
    echo(
        tmp_path / "in",
        tmp_path / "out",
        input={"passthrough": ["id", "key", *COLUMNS]},
        output={"partition_by": ["key"], "compression": compression},
    )
    read = rows_of(spark.read.parquet(str(tmp_path / "out")))
    assert [row["id"] for row in read] == [0, 1, 2, 4]  # the fourth has no x
    assert [row["y"] for row in read] == [1.5, -0.0, 3.0, 5.0]
    assert {row["model_version"] for row in read} == {1}
    assert [row["key"] for row in read] == ["São Paulo", "a/b: 東京", "a%2Fb", None]
    for name, column in COLUMNS.items():
        plain = column.to_pylist()
        expected = [plain[row["id"]] for row in read]
        if name == "at":  # Spark's are naive, in the session's zone
            expected = [None if one is None else one.replace(tzinfo=None) for one in expected]
        assert [bytes(row[name]) if name == "raw" and row[name] is not None else row[name] for row in read] == expected, name
    (bad,) = rows_of(spark.read.parquet(str(tmp_path / "out.quarantine")))
    assert (bad["id"], bad["x"], bad["key"], bad["text"], bad["_reason"]) == (3, None, "lost", "b", "column x is null")


def test_spark_reads_runs_that_are_added_one_after_the_other(spark: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for at in range(3):
        pq.write_table(pa.table({"id": [at], "x": pa.array([float(at)], pa.float32())}), tmp_path / f"in/{at}.parquet")
        echo(tmp_path / "in", tmp_path / "out", input={"passthrough": ["id"], "only_new": True}, output={"mode": "append"})
    read = rows_of(spark.read.parquet(str(tmp_path / "out")))
    assert [(row["id"], row["y"]) for row in read] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert len({row["run"] for row in read}) == 3
