"""A SavedModel, by real TensorFlow: `make tensorflow` runs this in a venv with the extra `tensorflow` and nothing of `dev`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import BadInput
from deployments.builder.pipeline import Built, build
from deployments.builder.spec import BuildSpec
from deployments.engines.load import load_engine

pytest.importorskip("tensorflow", reason="needs the extra tensorflow: `make tensorflow`")
FOLDER = Path(__file__).parent.parent / "fixtures" / "tensorflow"


def run(base: Path, root: Path) -> Built:
    evaluate = {"data": str(FOLDER / "expected.npz"), "label": "label"}
    spec = BuildSpec.model_validate(
        {"source": {"saved_model": "saved_model"}, "outputs": ["probabilities"], "evaluate": evaluate}
    )
    return build(spec, model="digits", base=base, root=root / "artifacts", log=root / "log", progress=lambda _: None)


def test_a_saved_model_answers_as_tensorflow_did(tmp_path: Path) -> None:
    built = run(FOLDER, tmp_path)
    assert built.artifact is not None
    assert built.report.parity < 1e-5
    assert built.report.source["framework"].startswith("tensorflow")
    with np.load(FOLDER / "expected.npz") as expected:
        answer = load_engine(Path(built.artifact.uri)).score({"image": expected["image"]})["probabilities"]
        np.testing.assert_allclose(answer, expected["mlp"], atol=1e-5)


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
def test_a_truncated_saved_model_is_refused(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(FOLDER / "saved_model", tmp_path / "in" / "saved_model"))
    (folder / name).write_bytes((folder / name).read_bytes()[:999])
    with pytest.raises(BadInput, match="no whole SavedModel"):
        run(folder.parent, tmp_path / "root")
    assert not (tmp_path / "root" / "artifacts").exists()
