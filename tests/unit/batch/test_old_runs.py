"""Runs and artifacts that an earlier version of Headrace has written are read today."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from consumers.batch.write.publish import read_manifest
from consumers.batch.write.records import RunPhase, totals
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.manifest import verify
from deployments.artifacts.places import locate
from deployments.engines.load import load_engine
from tests.support.batch_parts import echo

FIXTURES = Path(__file__).parents[2] / "fixtures"
DIGEST = "06ce35937b36ae2a4c0b86f9a7287faf636e73db110516b60bdb4db804e52093"


def old_output(tmp_path: Path) -> Path:
    """An output with two runs of commit ca71fb8 (in mode append, of one file each, with `only_new`), as if they had run here."""
    shutil.copytree(FIXTURES / "batch-ca71fb8/in", tmp_path / "in")
    shutil.copytree(FIXTURES / "batch-ca71fb8/runs", tmp_path / ".out.headrace/runs")
    for record in (tmp_path / ".out.headrace/runs").rglob("*.json"):
        record.write_text(record.read_text().replace("/data/", f"{tmp_path}/"))
    for run in RunHistory(locate(str(tmp_path / "out"))).all():
        for unit in run.units():
            for piece in unit.slices:
                os.utime(piece.path, ns=(piece.modified_ns, piece.modified_ns))
    return tmp_path / "out"


def test_old_runs_are_read_and_known_to_new_ones(tmp_path: Path) -> None:
    output = old_output(tmp_path)
    runs = RunHistory(locate(str(output)))
    assert [run.phase() for run in runs.all()] == [RunPhase.PUBLISHED] * 2
    assert [(read_manifest(run).rows, totals(run.receipts()).quarantined) for run in runs.all()] == [(2, 1)] * 2
    assert [run.record().spec.output.keep_runs for run in runs.all()] == [50, 50]
    pq.write_table(pa.table({"id": [2], "x": pa.array([2.0], pa.float32())}), tmp_path / "in/2.parquet")
    manifest = echo(tmp_path / "in", output, input={"passthrough": ["id"], "only_new": True}, output={"mode": "append"})
    assert [path for path, _ in manifest.inputs] == [str(tmp_path / "in/2.parquet")]
    assert len(runs.all()) == 3


def test_an_old_artifact_is_verified_and_answers() -> None:
    folder = FIXTURES / "artifact-ca71fb8"
    manifest = verify(folder, DIGEST)
    assert (manifest.model, manifest.engine) == ("square", "onnx")
    answer = load_engine(folder).score({"x": np.array([3.0, -4.0], np.float32)})
    np.testing.assert_array_equal(answer["y"], np.array([9.0, 16.0], np.float32))
