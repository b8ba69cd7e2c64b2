"""`headrace build --seal`: nothing of a sealed version is left in clear, and a key that is not there is told at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deployments.artifacts.manifest import read_manifest
from deployments.artifacts.version_files import open_folder
from deployments.builder.report import read_report
from deployments.engines.load import load_engine
from deployments.keys.ring import VARIABLE
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from tests.support.models import INPUT, mlp_artifact, rows

DOCUMENT = """
kind: Model
name: digits
build:
  source: {onnx: model.onnx}
  evaluate: {data: rows.npz, label: label}
  optimise: false
  gate: {min_accuracy: 0}
  seal: [file:own.pub, prod]
"""


@pytest.mark.thorough
@pytest.mark.usefixtures("builds_here")
def test_a_build_leaves_nothing_in_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(VARIABLE, raising=False)
    work = tmp_path / "temporary"
    work.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(work))
    plain = Path(mlp_artifact(tmp_path / "plain")[0]) / "model.onnx"
    (tmp_path / "model.onnx").write_bytes(plain.read_bytes())
    secret = rows(60, seed=3)
    np.savez(tmp_path / "rows.npz", **{INPUT: secret}, label=np.arange(60) % 10)
    (tmp_path / "model.yaml").write_text(DOCUMENT)
    words = ["build", str(tmp_path / "model.yaml"), "--output", str(tmp_path / "out"), "--json"]

    assert main(words) == ExitCode.NOT_FOUND
    assert "own.pub" in capsys.readouterr().err
    assert main([*words, "--seal", "file:~nobody-of-this-name/own.pub"]) == ExitCode.BAD_INPUT
    assert "a user who is not here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for name in ("own", "prod"):
        assert main(["sealing", "new", name]) == ExitCode.OK
    (tmp_path / "home" / "keys" / "own.pub").rename(tmp_path / "own.pub")
    capsys.readouterr()
    assert main(words) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert "page" not in told
    folder = Path(told["artifact_uri"])
    assert read_manifest(folder).seal is not None
    assert len(open_folder(folder).seal_keys().wraps) == 2
    assert list(work.iterdir()) == []
    weights, row = plain.read_bytes()[5000:5064], secret[0, :16].tobytes()
    for file in (*folder.rglob("*"), *(tmp_path / "home").rglob("*")):
        content = file.read_bytes() if file.is_file() else b""
        assert weights not in content, file
        assert row not in content, file
        assert b"rows.npz" not in content, file

    load_engine(folder)
    report = read_report(folder)
    assert report is not None
    assert report.data["file"] == "rows.npz"
