"""Hive folders, in and out: every row in exactly one, whatever the key."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import BadInput, Conflict, NoCapacity
from consumers.batch.read.hive import NULL, by_partition, check_keys
from consumers.batch.run import begin, resume
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from tests.support.batch_parts import ECHO, echo, echo_pin, echo_spec_of, stopping_after


def parts(**keys: pa.Array) -> dict[str, list[int]]:
    """The folders that the rows of these columns are sorted into."""
    rows = len(next(iter(keys.values())))
    table = pa.table({**keys, "id": range(rows)})
    check_keys(table.schema, list(keys))
    found = [(folder, part) for folder, part in by_partition(table, list(keys))]
    assert all(part.column_names == ["id"] for _, part in found)
    assert len({folder for folder, _ in found}) == len(found)
    return {folder: part["id"].to_pylist() for folder, part in found}


def test_nan_signed_zeros_and_nulls_are_each_in_one_place() -> None:
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        found = parts(k=pa.array([1.0, math.nan, 0.0, -0.0, None, math.nan], kind))
        assert found == {"k=1.0/": [0], "k=nan/": [1, 5], "k=0.0/": [2], "k=-0.0/": [3], f"k={NULL}/": [4]}


ROWS = 6
TEXTS = ["a/b", None, "São Paulo", "a%2Fb", "a/b", "."]
KEYS = [
    pa.array(TEXTS),
    pa.array(TEXTS, pa.large_string()),
    pa.array(TEXTS, pa.string_view()),
    pa.array(TEXTS).dictionary_encode(),
    pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2, 2, 0], pa.int8()), pa.array(["x", None, "y"])),
    pa.nulls(ROWS),
    pa.array([True, False, None] * 2),
    pa.array([Decimal("0.00"), Decimal("1.50"), None] * 2, pa.decimal32(5, 2)),
    pa.array([Decimal("0.00"), Decimal("1.50"), None] * 2, pa.decimal256(60, 2)),
    pa.array([date(1, 1, 1), date(9999, 12, 31), None] * 2),
    *(pa.array([datetime(1970, 1, 1), datetime(2200, 1, 1), None] * 2, pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")),  # noqa: DTZ001
    pa.array([datetime(1970, 1, 1, tzinfo=UTC), None, None] * 2, pa.timestamp("us", "Europe/Berlin")),
    pa.array([0, 1, None] * 2, pa.int64()).cast(pa.time64("ns")),
    pa.array([0, 1, None] * 2, pa.int64()).cast(pa.duration("ns")),
    pa.array([-(2**63), 2**63 - 1, None] * 2, pa.int64()),
    pa.array([2**64 - 1, 0, None] * 2, pa.uint64()),
]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: str(key.type))
def test_every_row_is_in_exactly_one_folder_whatever_the_keys_type(key: pa.Array) -> None:
    found = parts(k=key)
    assert sorted(row for rows in found.values() for row in rows) == list(range(ROWS))
    plain = key.to_pylist()
    assert found.get(f"k={NULL}/", []) == [row for row in range(ROWS) if plain[row] is None]
    assert all(len({plain[row] for row in rows}) == 1 for rows in found.values())


keys = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -0.0, math.nan]))


@pytest.mark.thorough
@given(st.lists(st.tuples(keys, st.one_of(st.none(), st.text(max_size=3))), max_size=40))
def test_every_row_is_in_exactly_one_folder(rows: list[tuple[float | None, str | None]]) -> None:
    found = parts(a=pa.array([row[0] for row in rows], pa.float64()), b=pa.array([row[1] for row in rows], pa.string()))
    assert sorted(row for part in found.values() for row in part) == list(range(len(rows)))
    assert all(len({repr(rows[row]) for row in part}) == 1 for part in found.values())
    assert all(part == sorted(part) for part in found.values())


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.list_(pa.int8()), pa.struct([("a", pa.int8())]), pa.month_day_nano_interval(), pa.uuid()]
)
def test_what_makes_no_name_of_a_folder_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(BadInput, match="makes no name of a folder"):
        check_keys(pa.schema({"k": kind}), ["k"])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (pa.array([NULL]), "takes for null"),
        (pa.array(["x" * 254]), "256 of 255 bytes"),
        (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), "outside of the years 1 to 9999"),
        (pa.array([str(at) for at in range(1001)]), "1,001 different values"),
    ],
)
def test_values_that_name_no_folder_are_refused(key: pa.Array, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parts(k=key)


def write(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize("values", [[1.0, math.nan, 0.0, -0.0, None], [math.nan] * 3])
def test_a_run_publishes_each_row_once(tmp_path: Path, values: list[float | None]) -> None:
    ids = list(range(len(values)))
    write(tmp_path / "in/a.parquet", x=pa.array(ids, pa.float32()), id=ids, k=pa.array(values, pa.float64()))
    manifest = echo(tmp_path / "in", tmp_path / "out", input={"passthrough": ["id", "k"]}, output={"partition_by": ["k"]})
    table = ds.dataset(tmp_path / "out", partitioning="hive").to_table().sort_by("id")
    assert table["id"].to_pylist() == ids
    assert [None if k is None else str(float(k)) for k in table["k"].to_pylist()] == [
        None if k is None else str(k) for k in values
    ]
    assert (manifest.written, sum(file.rows for file in manifest.files)) == (len(ids), len(ids))


def test_a_key_that_is_no_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    write(tmp_path / "in/a.parquet", x=pa.array([1.0], pa.float32()), k=[b"a"])
    with pytest.raises(BadInput, match="column k is binary"):
        echo(tmp_path / "in", tmp_path / "out", input={"passthrough": ["k"]}, output={"partition_by": ["k"]})
    assert RunHistory(locate(str(tmp_path / "out"))).all() == ()


def test_rows_lost_before_publishing_are_never_published(tmp_path: Path) -> None:
    for at in range(2):
        write(tmp_path / f"in/{at}.parquet", x=pa.array([1.0, 2.0], pa.float32()))
    spec = echo_spec_of(tmp_path / "in", tmp_path / "out", units={"max_rows": 2})
    with pytest.raises(NoCapacity, match="disk is full"):
        begin("echo", spec, echo_pin(), stopping_after(ECHO, 1), as_of=None, fresh=False, watch=lambda _p: None)
    ledger = RunHistory(locate(spec.output.path)).all()[0]
    (scored,) = Path(ledger.data.path).glob("*.parquet")
    pq.write_table(pq.read_table(scored).slice(1), scored)
    with pytest.raises(Conflict, match="hold 3 rows, and 4 were scored"):
        resume("echo", spec.output.path, ECHO, watch=lambda _p: None)
    assert not (tmp_path / "out").exists()


def test_what_a_killed_attempt_left_is_not_published(tmp_path: Path) -> None:
    for at in range(2):
        write(tmp_path / f"in/{at}.parquet", x=pa.array([1.0, 2.0], pa.float32()))
    spec = echo_spec_of(tmp_path / "in", tmp_path / "out", units={"max_rows": 2})
    with pytest.raises(NoCapacity):
        begin("echo", spec, echo_pin(), stopping_after(ECHO, 1), as_of=None, fresh=False, watch=lambda _p: None)
    ledger = RunHistory(locate(spec.output.path)).all()[0]
    write(Path(ledger.data.path) / f"k=9/part-000001-{ledger.run_id}.parquet", y=[1.0])
    assert resume("echo", spec.output.path, ECHO, watch=lambda _p: None).written == 4
    assert ds.dataset(tmp_path / "out").count_rows() == 4
