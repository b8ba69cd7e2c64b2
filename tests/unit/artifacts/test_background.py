"""The rows that a version's rows are explained against, among its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import BadArtifact
from deployments.artifacts.background import read_background
from deployments.artifacts.manifest import BACKGROUND, EXPLAIN, read_manifest, verify
from deployments.artifacts.package import Artifact, write_artifact
from deployments.artifacts.samples import read_samples
from deployments.artifacts.version_files import open_folder
from deployments.engines.load import load_engine
from deployments.explain.explaining import explain_rows
from deployments.explain.form import Background, ExplainMethod, ExplainOptions
from tests.support.models import INPUT, SIGNATURE, mlp_artifact, rows

OLD = Path(__file__).parents[2] / "fixtures" / "artifact-ca71fb8"
KEPT = Background({INPUT: rows(64)}, works=(ExplainMethod.SHAPLEY,), left_out=("other",))


def packaged(folder: Path, background: Background | None) -> Artifact:
    """A real network's artifact with that background."""
    plain = Path(mlp_artifact(folder / "plain")[0])
    return write_artifact(
        folder / "root",
        model="digits",
        engine="onnx",
        signature=SIGNATURE,
        files={"model.onnx": plain / "model.onnx"},
        samples=read_samples(plain),
        report={"task": "regression"},
        background=background,
        source={},
    )


def test_it_is_read_as_it_was_written_and_has_its_digests(tmp_path: Path) -> None:
    written = packaged(tmp_path, KEPT)
    folder = Path(written.uri)
    assert {EXPLAIN, BACKGROUND} < {entry.path for entry in verify(folder, written.digest).files}
    found = read_background(folder)
    np.testing.assert_array_equal(found.rows[INPUT], rows(64))
    assert (found.classes, found.works, found.left_out, found.why_none) == (True, (ExplainMethod.SHAPLEY,), ("other",), "")
    load_engine(folder)


def test_without_rows_it_says_why(tmp_path: Path) -> None:
    folder = Path(packaged(tmp_path, Background({}, classes=False, why_none="the document says so")).uri)
    assert not (folder / BACKGROUND).exists()
    found = read_background(folder)
    assert (found.count, found.classes, found.why_none) == (0, False, "the document says so")


def test_versions_from_before_are_explained_against_their_sample_rows(tmp_path: Path) -> None:
    for folder in (OLD, Path(packaged(tmp_path, None).uri)):
        found = read_background(folder)
        sampled = read_samples(folder).inputs
        engine = load_engine(folder)
        name = engine.signature.inputs[0].name
        assert found.count == len(sampled[name])
        np.testing.assert_array_equal(found.rows[name], sampled[name])
        assert found.works is None
        options = ExplainOptions(label=None if folder == OLD else 3, evaluations=2000)
        one = explain_rows(engine.score, {name: sampled[name][:1] * 2}, engine.signature, found, options)[0]
        assert one.completeness_error < 1e-5
        assert one.attributions[name].any()
    assert not read_background(Path(packaged(tmp_path / "other", None).uri)).classes, "as its report says"
    bare = shutil.copytree(OLD, tmp_path / "bare")
    manifest = read_manifest(bare)
    kept = tuple(entry for entry in manifest.files if entry.path != "report.json")
    (bare / "manifest.json").write_bytes(manifest.model_copy(update={"files": kept}).content)
    (bare / "report.json").unlink()
    for version in (bare, open_folder(bare)):
        assert read_background(version).classes, "where none says: as an answer looks"


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (EXPLAIN, b"{}", "bad explain.json: rows"),
        (EXPLAIN, b'{"format": 9, "rows": 64, "classes": true, "works": null}', "format 9 is unknown"),
        (EXPLAIN, b'{"rows": 3, "classes": true, "works": null}', "not 3 background rows"),
        (BACKGROUND, b"nothing", "bad background rows"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, file: str, content: bytes, says: str) -> None:
    folder = Path(packaged(tmp_path, KEPT).uri)
    (folder / file).write_bytes(content)
    with pytest.raises(BadArtifact, match=says):
        read_background(folder)
