"""A SavedModel, by real TensorFlow: `make tensorflow` runs this in a venv with the extra `tensorflow` and nothing of `dev`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import BadInput
from deployments.builder.pipeline import Built, build
from deployments.builder.spec import BuildSpec
from deployments.engines.load import load_engine

tf = pytest.importorskip("tensorflow", reason="needs the extra tensorflow: `make tensorflow`")
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


def test_a_saved_model_of_mlflow_answers_as_tensorflow_did(tmp_path: Path) -> None:
    spec = BuildSpec.model_validate({"source": {"mlflow": str(FOLDER.parent / "mlflow" / "tf_model")}})
    built = build(
        spec, model="flowers", base=tmp_path, root=tmp_path / "artifacts", log=tmp_path / "log", progress=lambda _: None
    )
    assert built.artifact is not None
    with np.load(FOLDER.parent / "mlflow" / "flowers.npz") as expected:
        answer = load_engine(Path(built.artifact.uri)).score({"input": expected["x"]})
        np.testing.assert_allclose(answer["probabilities"], expected["y"], atol=1e-5)


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
def test_a_truncated_saved_model_is_refused(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(FOLDER / "saved_model", tmp_path / "in" / "saved_model"))
    (folder / name).write_bytes((folder / name).read_bytes()[:999])
    with pytest.raises(BadInput, match="no whole SavedModel"):
        run(folder.parent, tmp_path / "root")
    assert not (tmp_path / "root" / "artifacts").exists()


def column(name: str) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [-1, 1]}


def test_inputs_and_outputs_of_a_saved_model_are_bound_by_name(tmp_path: Path) -> None:
    class Left(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 1], name=name) for name in ("income", "debt")])
        def answer(self, income: Any, debt: Any) -> dict[str, Any]:
            return {"scores": tf.concat([income, debt, debt], axis=1), "amount": income - debt}

    module = Left()
    tf.saved_model.save(module, str(tmp_path / "left"), signatures={"serving_default": module.answer})
    section = {
        "source": {"saved_model": "left"},
        "inputs": [column("debt"), column("income")],
        "outputs": ["amount", "scores"],
        "optimise": False,
    }
    spec = BuildSpec.model_validate(section)
    built = build(spec, model="m", base=tmp_path, root=tmp_path / "artifacts", log=tmp_path / "log", progress=lambda _: None)
    assert built.artifact is not None
    assert (built.report.source["inputs"], built.report.source["outputs"]) == ("by name", "by name")
    engine = load_engine(Path(built.artifact.uri))
    assert [one.name for one in engine.signature.outputs] == ["amount", "scores"]
    found = engine.score({"income": np.array([[100]], np.float32), "debt": np.array([[30]], np.float32)})
    assert found["amount"].tolist() == [[70.0]]
    assert found["scores"].tolist() == [[100.0, 30.0, 30.0]]
    wrong = BuildSpec.model_validate(section | {"inputs": [column("owed"), column("income")]})
    with pytest.raises(BadInput, match="no input owed; its inputs are debt, income"):
        build(wrong, model="m", base=tmp_path, root=tmp_path / "none", log=tmp_path / "log", progress=lambda _: None)
