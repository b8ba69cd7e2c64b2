"""Whole runs in this process, with the real engine and real files: no Ray."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from cluster.errors import BadInput, Conflict, HeadraceError, NoCapacity, NotFound
from consumers.batch.plan import Unit
from consumers.batch.run import NothingNew, RunProgress, Workforce, begin, resume
from consumers.batch.score.inline import inline_workforce
from consumers.batch.spec import BatchSpec
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.publish import RunManifest
from consumers.batch.write.records import Pinned, Receipt, RunRecord
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from tests.support.batch_parts import (
    digits_pin,
    echo,
    engine_scorer,
    images,
    pinned,
    published,
    quarantined,
    scores,
    spec_of,
    stopping_after,
    write_dataset,
    write_file,
)
from tests.support.models import failing_artifact, rows
from tests.support.small_disk import mounted

INLINE = inline_workforce(engine_scorer)


@pytest.fixture
def pin(tmp_path: Path) -> Pinned:
    return digits_pin(tmp_path)


def run(spec: BatchSpec, pin: Pinned, workforce: Workforce = INLINE, **options: Any) -> RunManifest:
    settings: dict[str, Any] = {"as_of": None, "fresh": False, "watch": lambda _progress: None}
    return begin("digits", spec, pin, workforce, **settings | options)


def refused(spec: BatchSpec, pin: Pinned) -> str:
    """The message of a run that does not begin, having made nothing."""
    with pytest.raises(BadInput) as caught:
        run(spec, pin)
    assert not Path(spec.output.path).exists()
    assert RunHistory(locate(spec.output.path)).unfinished() is None
    return str(caught.value)


def test_every_row_is_scored_once_with_what_the_engine_answers(tmp_path: Path, pin: Pinned) -> None:
    total = write_dataset(tmp_path / "in")
    seen: list[RunProgress] = []
    manifest = run(spec_of(tmp_path / "in", tmp_path / "out"), pin, watch=seen.append)
    table = published(tmp_path / "out")
    assert table["id"].to_pylist() == list(range(total))
    expected = np.concatenate([scores(pin, rows(300, seed=at)) for at in range(4)])
    assert np.allclose(np.array(table["p"].to_pylist()), expected, atol=1e-6)
    assert table["digit"].to_pylist() == expected.argmax(axis=1).tolist()
    assert set(table["v"].to_pylist()) == {1}
    assert (manifest.rows, manifest.written, manifest.quarantined, manifest.units) == (total, total, 0, 12)
    assert sum(file.rows for file in manifest.files) == total
    assert [progress.rows_done for progress in seen] == [100 * at for at in range(13)]
    assert seen[-1].left_s == 0
    assert not (tmp_path / "out.quarantine").exists()


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_readers_that_know_nothing_of_us(tmp_path: Path, pin: Pinned, mode: str) -> None:
    total = write_dataset(tmp_path / "in", files=1)
    spec = spec_of(tmp_path / "in", tmp_path / "out", output={"mode": mode})
    run(spec, pin)
    run(spec, pin)
    rows = total if mode == "replace" else 2 * total
    assert published(tmp_path / "out").num_rows == rows
    assert len(pd.read_parquet(tmp_path / "out")) == rows
    assert len(pl.read_parquet(tmp_path / "out")) == rows
    counted = duckdb.sql(f"select count(*), sum(len(p)) from '{tmp_path}/out/**/*.parquet'").fetchall()  # noqa: S608
    assert counted == [(rows, 10 * rows)]


def test_bad_rows_are_quarantined_with_all_their_columns(tmp_path: Path, pin: Pinned) -> None:
    image = images(500)
    image[3], image[250], image[251] = None, [1.0], [float("nan"), *image[251][1:]]  # type: ignore[index]
    write_file(tmp_path / "in/a.parquet", range(500), image, note=[f"n{at}" for at in range(500)])
    manifest = run(spec_of(tmp_path / "in", tmp_path / "out"), pin)
    assert published(tmp_path / "out")["id"].to_pylist() == [at for at in range(500) if at not in (3, 250, 251)]
    assert quarantined(tmp_path / "out") == {
        3: "column image is null",
        250: "column image has 1 values, not 784",
        251: "input image holds NaN",
    }
    table = pq.read_table(tmp_path / "out.quarantine")
    assert table.column_names == ["id", "image", "note", "_reason", "_file"]
    assert set(table["note"].to_pylist()) == {"n3", "n250", "n251"}
    assert set(table["_file"].to_pylist()) == {str(tmp_path / "in/a.parquet")}
    assert (manifest.rows, manifest.written, manifest.quarantined) == (500, 497, 3)


def test_rows_that_the_engine_rejects_are_found_by_halving(tmp_path: Path) -> None:
    pin = pinned(failing_artifact(tmp_path / "artifacts"))
    image = images(400)
    for at in (0, 17, 18, 399):
        image[at][0] = 0.9  # type: ignore[index]
    write_file(tmp_path / "in/a.parquet", range(400), image)
    run(spec_of(tmp_path / "in", tmp_path / "out"), pin)
    assert sorted(quarantined(tmp_path / "out")) == [0, 17, 18, 399]
    assert "the model fails on this row" in quarantined(tmp_path / "out")[17]
    assert published(tmp_path / "out")["id"].to_pylist() == [at for at in range(400) if at not in (0, 17, 18, 399)]


def test_a_dataset_of_bad_rows_only_publishes_an_empty_table(tmp_path: Path, pin: Pinned) -> None:
    write_file(tmp_path / "in/a.parquet", range(3), [None, None, None])
    manifest = run(spec_of(tmp_path / "in", tmp_path / "out"), pin)
    assert published(tmp_path / "out").num_rows == 0
    assert published(tmp_path / "out").column_names == ["id", "digit", "p", "v"]
    assert manifest.quarantined == 3


def test_too_many_bad_rows_stop_the_run_and_show_what_was_found(tmp_path: Path, pin: Pinned) -> None:
    write_file(tmp_path / "in/a.parquet", range(50), [None] * 50)
    with pytest.raises(BadInput, match="max_quarantined") as caught:
        run(spec_of(tmp_path / "in", tmp_path / "out", max_quarantined=49), pin)
    assert pq.read_table(caught.value.where).num_rows == 50
    assert not (tmp_path / "out").exists()


def test_the_next_run_replaces_the_last_and_keeps_it_aside(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in", files=2)
    spec = spec_of(tmp_path / "in", tmp_path / "out")
    first = run(spec, pin)
    (tmp_path / "in/0.parquet").unlink()
    second = run(spec, digits_pin(tmp_path, version=2))
    table = published(tmp_path / "out")
    assert table["id"].to_pylist() == list(range(300, 600))
    assert set(table["v"].to_pylist()) == {2}
    aside = RunHistory(locate(str(tmp_path / "out"))).new(second.run_id).place / "replaced-data"
    assert sorted(info.base_name for info in aside.files()) == sorted(file.path for file in first.files)


def test_append_keeps_what_is_there(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in", files=1)
    spec = spec_of(tmp_path / "in", tmp_path / "out", output={"mode": "append"}, input={"only_new": True})
    run(spec, pin)
    write_file(tmp_path / "in/new.parquet", range(1000, 1100), images(100))
    run(spec, pin)
    assert published(tmp_path / "out")["id"].to_pylist() == [*range(300), *range(1000, 1100)]
    with pytest.raises(BadInput, match="no file is new"):
        run(spec, pin)


def test_a_filter_prunes_row_groups_and_rows(tmp_path: Path, pin: Pinned) -> None:
    image = images(300)
    image[150] = None
    write_file(tmp_path / "in/a.parquet", range(300), image)
    manifest = run(spec_of(tmp_path / "in", tmp_path / "out", input={"filter": [["id", ">=", 140], ["id", "<", 160]]}), pin)
    assert manifest.units == 1
    assert published(tmp_path / "out")["id"].to_pylist() == [at for at in range(140, 160) if at != 150]
    assert quarantined(tmp_path / "out") == {150: "column image is null"}


def test_hive_partitions_are_columns(tmp_path: Path, pin: Pinned) -> None:
    for day in (1, 2):
        image = images(100)
        image[7] = None
        write_file(tmp_path / f"in/day={day}/a.parquet", range(day * 100, day * 100 + 100), image)
    spec = spec_of(tmp_path / "in", tmp_path / "out", input={"passthrough": ["id", "day"], "filter": [["day", "=", 2]]})
    run(spec, pin)
    table = published(tmp_path / "out")
    assert set(table["day"].to_pylist()) == {2}
    assert table.num_rows == 99
    assert pq.read_table(tmp_path / "out.quarantine")["day"].to_pylist() == [2]


def test_output_partitions_are_hive_folders(tmp_path: Path, pin: Pinned) -> None:
    countries = [("de", "f r", None)[at % 3] for at in range(300)]
    write_file(tmp_path / "in/a.parquet", range(300), images(300), country=countries)
    spec = spec_of(
        tmp_path / "in", tmp_path / "out", input={"passthrough": ["id", "country"]}, output={"partition_by": ["country"]}
    )
    manifest = run(spec, pin)
    table = ds.dataset(tmp_path / "out", format="parquet", partitioning="hive").to_table().sort_by("id")
    assert table["country"].to_pylist() == countries
    assert sum(file.rows for file in manifest.files) == 300
    assert sorted({Path(file.path).parent.name for file in manifest.files}) == [
        "country=__HIVE_DEFAULT_PARTITION__",
        "country=de",
        "country=f r",
    ]


def test_a_glob_and_a_date_choose_the_files(tmp_path: Path, pin: Pinned) -> None:
    for day in ("2026-11-22", "2026-11-23"):
        write_file(tmp_path / f"in/{day}/a.parquet", range(100), images(100))
    spec = spec_of(f"{tmp_path}/in/{{as_of}}/*.parquet", tmp_path / "out")
    manifest = run(spec, pin, as_of=date(2026, 11, 23))
    assert [path for path, _ in manifest.inputs] == [str(tmp_path / "in/2026-11-23/a.parquet")]
    assert manifest.as_of == "2026-11-23"
    with pytest.raises(BadInput, match="depends on a date"):
        run(spec, pin)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input": {"path": "MISSING"}}, "no such file or directory"),
        ({"input": {"columns": {"image": "picture"}}}, "needs column picture"),
        ({"input": {"columns": {"image": "id"}}}, "one value a row"),
        ({"input": {"passthrough": ["nothing"]}}, "passthrough names nothing; the columns are id, image"),
        ({"input": {"filter": [["nothing", "=", 1]]}}, "nothing"),
        ({"input": {"filter": [["id", "~", 1]]}}, "not a filter"),
        ({"output": {"columns": {"digit": "argmax(logits)"}}}, "no output 'logits'; it has probabilities"),
    ],
)
def test_a_wrong_document_fails_before_any_work(tmp_path: Path, pin: Pinned, changes: dict[str, Any], words: str) -> None:
    write_dataset(tmp_path / "in", files=1)
    assert words in refused(spec_of(tmp_path / "in", tmp_path / "out", **changes), pin)


def test_an_output_inside_the_input_or_around_it_is_refused(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in/data", files=1)
    assert "lies inside the input" in refused(spec_of(tmp_path / "in", tmp_path / "in/out"), pin)
    assert "lies inside the input" in refused(spec_of(f"{tmp_path}/in/**/*.parquet", tmp_path / "in/out"), pin)
    with pytest.raises(BadInput, match="or holds it"):
        run(spec_of(tmp_path / "in/data", tmp_path / "in"), pin)


def test_empty_and_damaged_datasets(tmp_path: Path, pin: Pinned) -> None:
    (tmp_path / "in").mkdir()
    spec = spec_of(tmp_path / "in", tmp_path / "out")
    assert "no Parquet files" in refused(spec, pin)
    write_file(tmp_path / "in/a.parquet", [], [])
    assert "no rows" in refused(spec, pin)
    (tmp_path / "in/b.parquet").write_bytes(b"PAR1 nothing of the kind")
    assert "b.parquet" in refused(spec, pin)


def test_a_damaged_footer_may_be_set_aside(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in", files=1)
    (tmp_path / "in/b.parquet").write_bytes(b"not parquet")
    manifest = run(spec_of(tmp_path / "in", tmp_path / "out", input={"on_damage": "quarantine"}), pin)
    assert manifest.written == 300
    assert [damaged[0] for damaged in manifest.damaged] == [str(tmp_path / "in/b.parquet")]


def test_a_damaged_file_that_is_set_aside_fails_no_run_that_has_nothing_else_to_score(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in", files=1)
    wanted: dict[str, Any] = {"on_damage": "quarantine", "only_new": True}
    spec = spec_of(tmp_path / "in", tmp_path / "out", input=wanted, output={"mode": "append"})
    run(spec, pin)
    (tmp_path / "in/b.parquet").write_bytes(b"not parquet")
    with pytest.raises(NothingNew, match=r"no file is new, but 1 can't be read, e\.g\. .*b\.parquet"):
        run(spec, pin)
    (tmp_path / "in/0.parquet").unlink()
    with pytest.raises(BadInput, match=r"b\.parquet") as told:  # it is all that there is
        run(spec, pin)
    assert told.value.remedy == "mend or remove the file"


def test_schema_drift_names_both_files(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in", files=1)
    pq.write_table(pa.table({"id": ["x"], "image": pa.array([[0.0] * 784], pa.list_(pa.float32()))}), tmp_path / "in/z.parquet")
    told = refused(spec_of(tmp_path / "in", tmp_path / "out"), pin)
    assert "column id is string here and int64 in" in told
    assert "z.parquet" in told


def test_a_damaged_page_stops_the_run_until_it_is_mended(tmp_path: Path, pin: Pinned) -> None:
    total = write_dataset(tmp_path / "in", files=2)
    victim = tmp_path / "in/1.parquet"
    pq.write_table(pq.read_table(victim), victim, write_page_checksum=True)
    whole = victim.read_bytes()
    victim.write_bytes(whole[:5000] + bytes(2000) + whole[7000:])
    spec = spec_of(tmp_path / "in", tmp_path / "out")
    with pytest.raises(BadInput, match=r"1\.parquet"):
        run(spec, pin)
    assert not (tmp_path / "out").exists()
    victim.write_bytes(whole)
    again = resume("digits", spec.output.path, INLINE, watch=lambda _progress: None)
    assert again.written == total
    assert published(tmp_path / "out")["id"].to_pylist() == list(range(total))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    with mounted(tmp_path, "1m") as disk:
        yield disk


def test_a_full_disk_stops_the_run_which_goes_on_once_there_is_room(small_disk: Path, tmp_path: Path, pin: Pinned) -> None:
    total = write_dataset(tmp_path / "in")
    spec = spec_of(tmp_path / "in", small_disk / "out")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 80_000))
    with pytest.raises(NoCapacity, match="the disk is full"):
        run(spec, pin)
    assert not Path(spec.output.path).exists()
    ballast.unlink()
    done = RunHistory(locate(spec.output.path)).all()[0].done()
    manifest = resume("digits", spec.output.path, INLINE, watch=lambda _progress: None)
    assert 0 < done < manifest.units
    assert published(small_disk / "out")["id"].to_pylist() == list(range(total))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_told_before_any_work(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in", files=1)
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(BadInput, match="permission denied"):
        run(spec_of(tmp_path / "in", tmp_path / "locked/out"), pin)


def test_a_read_only_place_is_told_before_any_work(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in", files=1)
    with pytest.raises(HeadraceError) as caught:
        run(spec_of(tmp_path / "in", Path("/proc/headrace/out")), pin)
    assert "/proc" in caught.value.where


def damage_a_page(victim: Path, *, at: float) -> None:
    """Zeroes some bytes at this share of a file that carries checksums of its pages."""
    pq.write_table(pq.read_table(victim), victim, write_page_checksum=True, row_group_size=100)
    content = bytearray(victim.read_bytes())
    start = int(len(content) * at)
    content[start : start + 2000] = bytes(2000)
    victim.write_bytes(content)


@pytest.mark.parametrize("at", [0.1, 0.8])
def test_a_file_with_a_damaged_page_may_be_left_out_whole(tmp_path: Path, pin: Pinned, at: float) -> None:
    write_dataset(tmp_path / "in", files=3)
    damage_a_page(tmp_path / "in/1.parquet", at=at)
    spec = spec_of(
        tmp_path / "in", tmp_path / "out", input={"on_damage": "quarantine", "only_new": True}, units={"max_rows": 250}
    )
    manifest = run(spec, pin)
    # The file lies in three units: what the others scored of it is taken back.
    assert published(tmp_path / "out")["id"].to_pylist() == [*range(300), *range(600, 900)]
    assert [damaged[0] for damaged in manifest.damaged] == [str(tmp_path / "in/1.parquet")]
    assert (manifest.rows, manifest.written) == (600, 600)
    assert sorted(pq.read_table(tmp_path / "out").column("id").to_pylist()) == [*range(300), *range(600, 900)]
    assert len(manifest.inputs) == 2  # mended, it counts as new


def test_a_run_stopped_while_it_takes_a_damaged_file_back_ends_the_same(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in", files=3)
    damage_a_page(tmp_path / "in/1.parquet", at=0.8)
    spec = spec_of(tmp_path / "in", tmp_path / "out", input={"on_damage": "quarantine"})
    calls = 0

    def score(ledger: Ledger, record: RunRecord, units: Sequence[Unit], workers: int) -> Iterator[Receipt]:
        nonlocal calls
        calls += 1
        yield from INLINE.score(ledger, record, units if calls == 1 else units[:1], workers)
        if calls == 2:
            raise NoCapacity("the disk is full", where="somewhere")

    with pytest.raises(NoCapacity):
        run(spec, pin, replace(INLINE, score=score))
    manifest = resume("digits", spec.output.path, INLINE, watch=lambda _progress: None)
    assert published(tmp_path / "out")["id"].to_pylist() == [*range(300), *range(600, 900)]
    assert len(manifest.damaged) == 1


def test_a_stopped_run_goes_on_with_its_version_and_skips_what_is_done(tmp_path: Path, pin: Pinned) -> None:
    total = write_dataset(tmp_path / "in")
    spec = spec_of(tmp_path / "in", tmp_path / "out")
    with pytest.raises(NoCapacity):
        run(spec, pin, stopping_after(INLINE, 5))
    assert not (tmp_path / "out").exists()
    with pytest.raises(Conflict, match="5 of 12 units are done"):
        run(spec, pin)
    done: list[str] = []

    def score(ledger: Ledger, record: RunRecord, units: Sequence[Unit], workers: int) -> Iterator[Receipt]:
        done.extend(unit.id for unit in units)
        return iter(list(INLINE.score(ledger, record, units, workers)))

    manifest = resume("digits", spec.output.path, replace(INLINE, score=score), watch=lambda _progress: None)
    assert len(done) == 7
    assert manifest.written == total
    assert published(tmp_path / "out")["id"].to_pylist() == list(range(total))
    with pytest.raises(NotFound, match="no run is unfinished"):
        resume("digits", spec.output.path, INLINE, watch=lambda _progress: None)


def test_fresh_gives_an_unfinished_run_up(tmp_path: Path, pin: Pinned) -> None:
    write_dataset(tmp_path / "in")
    spec = spec_of(tmp_path / "in", tmp_path / "out")
    with pytest.raises(NoCapacity):
        run(spec, pin, stopping_after(INLINE, 5))
    manifest = run(spec, pin, fresh=True)
    assert manifest.units == 12
    assert len(RunHistory(locate(spec.output.path)).all()) == 1


def test_the_models_floats_have_no_dictionary_and_what_repeats_has_one(tmp_path: Path, pin: Pinned) -> None:
    write_file(tmp_path / "in" / "a.parquet", range(100), images(100), price=pa.array([0.5] * 100))
    spec = spec_of(tmp_path / "in", tmp_path / "out", input={"passthrough": ["id", "price"]})
    run(spec, pin)
    (written,) = (tmp_path / "out").glob("*.parquet")
    group = pq.ParquetFile(written).metadata.row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    told = {column.path_in_schema.split(".")[0]: "RLE_DICTIONARY" in column.encodings for column in columns}
    assert told == {"id": True, "price": True, "digit": True, "p": False, "v": True}


def test_bad_rows_of_small_files_that_are_scored_as_one_are_told_with_their_own_file(tmp_path: Path, pin: Pinned) -> None:
    bad = {3: 0, 19: 1, 20: 2, 29: 2}
    for at in range(3):
        values = images(10, seed=at)
        ids = range(10 * at, 10 * at + 10)
        write_file(tmp_path / "in" / f"{at}.parquet", ids, [None if key in bad else values[key % 10] for key in ids])
    spec = spec_of(tmp_path / "in", tmp_path / "out", input={"filter": [["id", "!=", 0]]}, units={"max_rows": 1000})
    manifest = run(spec, pin)
    assert (manifest.units, manifest.rows, manifest.quarantined) == (1, 29, 4)
    assert published(tmp_path / "out")["id"].to_pylist() == [key for key in range(1, 30) if key not in bad]
    table = ds.dataset(f"{tmp_path / 'out'}.quarantine", format="parquet").to_table()
    told = {key: Path(file).name for key, file in zip(table["id"].to_pylist(), table["_file"].to_pylist(), strict=True)}
    assert told == {key: f"{at}.parquet" for key, at in bad.items()}


def test_small_files_may_differ_in_the_order_of_columns_and_in_what_they_say_of_nulls(tmp_path: Path, pin: Pinned) -> None:
    (tmp_path / "in").mkdir()
    id_type, image_type = pa.int64(), pa.list_(pa.float32())
    for at, nulls in enumerate((True, False)):
        fields = [pa.field("id", id_type, nullable=nulls), pa.field("image", image_type, nullable=nulls)]
        schema = pa.schema(fields if nulls else fields[::-1])
        columns = {"id": range(10 * at, 10 * at + 10), "image": images(10, seed=at)}
        arrays = [pa.array(columns[field.name], field.type) for field in schema]
        pq.write_table(pa.table(arrays, schema=schema), tmp_path / "in" / f"{at}.parquet")
    assert run(spec_of(tmp_path / "in", tmp_path / "out", units={"max_rows": 1000}), pin).written == 20
    assert published(tmp_path / "out")["id"].to_pylist() == list(range(20))


def test_a_file_without_a_footer_never_stands_under_a_data_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.batch.write.output._ROW_GROUP_ROWS", 1000)
    monkeypatch.setattr("consumers.batch.read.gathered._READ_BYTES", 1)
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"x": pa.array([1.0] * 5000 + [None] * 50, pa.float32())}), tmp_path / "in/a.parquet")
    with pytest.raises(BadInput, match="max_quarantined"):
        echo(tmp_path / "in", tmp_path / "out", max_quarantined=9)
    ledger = RunHistory(locate(str(tmp_path / "out"))).all()[0]
    assert ledger.data.files() == []
    assert ledger.scratch.files() == []
