"""Records of old runs go; what readers see, and what `only_new` must know, stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cluster.errors import BadInput, Conflict
from consumers.batch.run import begin
from consumers.batch.score.inline import inline_workforce
from consumers.batch.score.rowscorer import RowScorer
from consumers.batch.spec import BatchSpec
from consumers.batch.write.publish import RunManifest, read_manifest
from consumers.batch.write.records import RunPhase, RunRecord
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from tests.support.batch_parts import ECHO, echo_pin

KEPT = 10


def add(folder: Path, at: int) -> None:
    """One row that is scored and one that is quarantined."""
    folder.mkdir(exist_ok=True)
    pq.write_table(
        pa.table({"id": [2 * at, 2 * at + 1], "x": pa.array([float(at), None], pa.float32())}), folder / f"{at}.parquet"
    )


def spec(tmp_path: Path, **output: Any) -> BatchSpec:
    return BatchSpec.model_validate(
        {
            "model": "echo",
            "input": {"path": str(tmp_path / "in"), "passthrough": ["id"], "only_new": output.get("mode") == "append"},
            "output": {"path": str(tmp_path / "out"), "keep_runs": KEPT} | output,
        }
    )


def score(asked: BatchSpec, workforce: Any = ECHO, fire: str = "") -> RunManifest:
    return begin("echo", asked, echo_pin(), workforce, as_of=None, fresh=False, watch=lambda _: None, fire=fire)


def ids(folder: Path) -> list[int]:
    return sorted(ds.dataset(str(folder), format="parquet", partitioning="hive").to_table()["id"].to_pylist())


def test_the_newest_runs_stay_readable_and_all_that_was_published_stays(tmp_path: Path) -> None:
    asked, manifests = spec(tmp_path, mode="append"), []
    for at in range(KEPT + 3):
        add(tmp_path / "in", at)
        manifests.append(score(asked))
    runs = RunHistory(locate(asked.output.path))
    assert [run.run_id for run in runs.all()] == [one.run_id for one in manifests[3:]]
    for run, manifest in zip(runs.all(), manifests[3:], strict=True):
        assert read_manifest(run) == manifest
        assert [(receipt.rows, receipt.quarantined) for receipt in run.receipts()] == [(2, 1)]
    assert ids(tmp_path / "out") == list(range(0, 2 * (KEPT + 3), 2))
    assert ids(tmp_path / "out.quarantine") == list(range(1, 2 * (KEPT + 3), 2))


def test_only_new_knows_what_runs_scored_whose_records_are_gone(tmp_path: Path) -> None:
    asked = spec(tmp_path, mode="append")
    for at in range(KEPT + 3):
        add(tmp_path / "in", at)
        score(asked)
    with pytest.raises(BadInput, match="no file is new"):
        score(asked)
    first = tmp_path / "in/0.parquet"
    os.utime(first, ns=(0, first.stat().st_mtime_ns + 1_000_000_000))
    assert score(asked).inputs == ((str(first), first.stat().st_size),)
    with pytest.raises(BadInput, match="no file is new"):
        score(asked)


def test_where_what_was_scored_is_not_known_nothing_is_scored_again(tmp_path: Path) -> None:
    asked = spec(tmp_path, mode="append")
    add(tmp_path / "in", 0)
    score(asked)
    (tmp_path / ".out.headrace/scored.json").write_text("[")
    with pytest.raises(Conflict, match=r"scored\.json.*only_new scores files again"):
        score(asked)


def test_a_run_whose_record_cannot_be_read_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked, manifests = spec(tmp_path), []
    add(tmp_path / "in", 0)
    for at in range(KEPT + 2):
        manifests.append(score(asked))
        if at == 0:
            (RunHistory(locate(asked.output.path)).all()[0].place / "manifest.json").write(b"{}")
    assert [run.run_id for run in RunHistory(locate(asked.output.path)).all()] == [manifests[0].run_id] + [
        one.run_id for one in manifests[2:]
    ]
    assert "manifest.json" in caplog.text


def test_what_was_replaced_stays_as_declared_however_few_records_do(tmp_path: Path) -> None:
    asked = spec(tmp_path, keep=KEPT + 2)
    add(tmp_path / "in", 0)
    for _ in range(3):
        score(asked)
    # The first had nothing to replace.
    assert [(run.place / "replaced-data").exists() for run in RunHistory(locate(asked.output.path)).all()] == [False, True, True]
    for _ in range(KEPT + 1):
        score(asked)
    kept = RunHistory(locate(asked.output.path)).all()
    assert len(kept) == KEPT + 2
    assert all((run.place / "replaced-data").files() for run in kept)
    assert ids(tmp_path / "out") == [0]


def test_what_killed_removals_left_goes_and_what_is_not_a_run_stays(tmp_path: Path) -> None:
    asked = spec(tmp_path)
    add(tmp_path / "in", 0)
    folder = tmp_path / ".out.headrace/runs"
    half = folder / "r20200101T000000.000000-abcd"
    (half / "receipts").mkdir(parents=True)
    (folder / "notes").mkdir()
    for _ in range(KEPT + 1):
        score(asked)
    assert not half.exists()
    assert (folder / "notes").exists()
    assert len(RunHistory(locate(asked.output.path)).all()) == KEPT


def test_an_unfinished_run_stays_and_a_fire_finds_its_own(tmp_path: Path) -> None:
    asked = spec(tmp_path)
    add(tmp_path / "in", 0)
    fired = score(asked, fire="f1")
    for _ in range(KEPT - 1):
        score(asked)
    assert score(asked, fire="f1") == fired

    class Broken:
        def score(self, *_: object) -> Any:
            raise BadInput("stopped")

    def broken(_: RunRecord) -> RowScorer:
        return Broken()

    with pytest.raises(BadInput, match="stopped"):
        score(asked, inline_workforce(broken))
    runs = RunHistory(locate(asked.output.path)).all()
    assert len(runs) == KEPT + 1
    assert runs[-1].phase() is RunPhase.SCORING


def test_fewer_records_than_a_schedule_needs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 10"):
        spec(tmp_path, keep_runs=9)
    assert BatchSpec.model_validate({"model": "m", "input": {"path": "in"}, "output": {"path": "out"}}).output.keep_runs == 50
