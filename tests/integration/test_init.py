"""`headrace init`: what a model file says of itself, for each kind, and a document that builds."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import catboost
import joblib
import lightgbm
import numpy as np
import onnx
import pandas as pd
import pytest
import skops.io
import torch
import xgboost
import yaml
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cluster.errors import HeadraceError
from deployments.builder.looking import look
from headrace.cli.main import main
from headrace.project.documents import load_project
from tests.support.builds import answer, here, run

IRIS = load_iris(as_frame=True)
X = IRIS.data.to_numpy(np.float32)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """The document that `headrace init FILE` writes in this process, which a worker's own does not differ from."""
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_DEBUG", "1")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr("deployments.builder.looking.describe.run_worker", lambda _, job, **__: look.step(dict(job)))

    def init(file: str) -> dict[str, Any]:
        document = tmp_path / f"{file}.yaml"
        assert main(["init", str(tmp_path / file), "-o", str(document)]) == 0
        load_project([document])
        found: dict[str, Any] = yaml.safe_load(document.read_text(encoding="utf-8"))
        return found["build"] | {"text": document.read_text(encoding="utf-8"), "name": found["name"]}

    return init


def test_an_onnx_file_s_document_builds_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real command and the real worker; then the build, in this process."""
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    model = LogisticRegression(max_iter=500).fit(X, IRIS.target)
    proto = to_onnx(model, X[:1])  # with a sequence of maps, which can't be served
    assert isinstance(proto, onnx.ModelProto)
    onnx.save(proto, tmp_path / "Flowers 1.onnx")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "Flowers 1.onnx"]) == 0
    text = (tmp_path / "model.yaml").read_text()
    assert "FILL IN" not in text.split("\n", 1)[1]
    assert "Left out, since they are no tensors with a row each: output_probability" in text
    found = load_project([tmp_path / "model.yaml"]).models[0]
    assert found.document.name == "Flowers-1"
    assert found.build is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deployments.builder.sources.importing.run_worker", here)
        patch.setattr("deployments.builder.steps.variants.run_worker", here)
        built = run(tmp_path, found.build.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    assert answer(built, X=X)["output_label"].tolist() == model.predict(X).tolist()
    assert main(["init", "Flowers 1.onnx"]) == 4  # it does not write over what is there


def test_scalars_free_axes_and_text_are_marked(tmp_path: Path, written: Callable[[str], dict[str, Any]]) -> None:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["sound", "rate"], ["out"])],
        "g",
        [
            helper.make_tensor_value_info("sound", TensorProto.FLOAT, ["n", "t"]),
            helper.make_tensor_value_info("rate", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", "t"])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "sound.onnx")
    found = written("sound.onnx")
    assert found["constants"] == {"rate": 0}
    assert found["inputs"] == [{"name": "sound", "datatype": "FP32", "shape": [-1, -1]}]
    assert found["text"].count("FILL IN:") == 2
    table = pd.DataFrame({"sepal length (cm)": X[:, 0], "purpose": ["car", "house"] * 75})
    encoded = ColumnTransformer([("n", StandardScaler(), ["sepal length (cm)"]), ("t", OneHotEncoder(), ["purpose"])])
    skops.io.dump(make_pipeline(encoded, LogisticRegression()).fit(table, IRIS.target), tmp_path / "m.skops")
    found = written("m.skops")
    assert found["source"] == {"sklearn": "m.skops"}
    assert [(one["name"], one["datatype"]) for one in found["inputs"]] == [("sepal length (cm)", "FP32"), ("purpose", "BYTES")]
    assert found["evaluate"] == {"data": "rows.parquet"}
    assert "FILL IN: its datatype" in found["text"]


@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost"])
def test_boosted_trees_name_their_columns(tmp_path: Path, written: Callable[[str], dict[str, Any]], library: str) -> None:
    table = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    if library == "xgboost":
        xgboost.train({}, xgboost.DMatrix(table, label=IRIS.target), 2).save_model(tmp_path / "named.json")
    elif library == "lightgbm":
        lightgbm.train({"verbose": -1}, lightgbm.Dataset(table, label=IRIS.target), 2).save_model(tmp_path / "named")
    else:
        quiet = {"verbose": 0, "allow_writing_files": False}
        catboost.CatBoostRegressor(iterations=2, **quiet).fit(table, IRIS.target).save_model(tmp_path / "named", format="json")
    found = written("named.json" if library == "xgboost" else "named")
    assert library in found["source"]
    assert found["inputs"] == [{"name": name, "datatype": "FP32", "shape": [-1, 1]} for name in "abcd"]
    assert "FILL IN:" not in found["text"]


def test_networks(tmp_path: Path, written: Callable[[str], dict[str, Any]]) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.ReLU())
    torch.save({"epoch": 3, "weights": module.state_dict()}, tmp_path / "checkpoint.pth")
    found = written("checkpoint.pth")
    source = {"state_dict": "checkpoint.pth", "class": "FILL_IN:FILL_IN", "state_dict_key": "weights"}
    assert found["source"] == {"pytorch": source}
    assert found["inputs"][0]["shape"] == [-1, 5]
    assert "0.weight suggests 5 numbers a row" in found["text"]
    torch.save(module, tmp_path / "whole.pt")
    found = written("whole.pt")
    assert found["source"]["pytorch"]["allow_pickle"] is True
    assert "FILL IN: it is a pickle" in found["text"]
    program = torch.export.export(module, (torch.zeros(2, 5),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "p.pt2")
    assert written("p.pt2")["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 5]}]
    import keras  # reads its backend then

    layers = keras.Sequential([keras.layers.Input((4,), name="flower"), keras.layers.Dense(3)])
    layers.save(tmp_path / "net.keras")
    found = written("net.keras")
    assert found["source"] == {"keras": "net.keras"}
    assert found["inputs"] == [{"name": "flower", "datatype": "FP32", "shape": [-1, 4]}]


def test_a_folder_of_transformers_is_described_by_its_text_files(
    tmp_path: Path, written: Callable[[str], dict[str, Any]]
) -> None:
    folder = tmp_path / "mood"
    folder.mkdir()
    config = {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "good", "1": "bad\nkind: x"},
    }
    for name, text in (("config.json", json.dumps(config)), ("tokenizer.json", "{}"), ("model.safetensors", "not read")):
        (folder / name).write_text(text)
    found = written("mood")
    assert (found["name"], found["source"]) == ("mood", {"huggingface": "mood"})
    assert "FILL IN:" not in found["text"]
    assert "BertForSequenceClassification, classes good, bad kind: x. Text goes in: the input `text`" in found["text"]
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (tmp_path / "mood.yaml").unlink()
    with pytest.raises(HeadraceError, match=r"pytorch_model.bin alone, which may run code"):
        written("mood")


def test_a_pickle_is_told_and_not_read(tmp_path: Path, written: Callable[[str], dict[str, Any]]) -> None:
    joblib.dump(LogisticRegression().fit(X, IRIS.target), tmp_path / "m.joblib")
    found = written("m.joblib")
    assert found["source"] == {"sklearn": {"file": "m.joblib", "allow_pickle": True}}
    assert found["text"].count("FILL IN:") == 2
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    with pytest.raises(HeadraceError, match="a pickle of something else"):
        written("bad.pkl")
    assert not (tmp_path / "ran").exists()


class Planted:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.txt", b"hello", "is none of: ONNX"),
        ("empty.onnx", b"", "is empty"),
        ("broken.onnx", b"\x08\x07rubbish", "no whole ONNX model"),
        ("broken.h5", b"\x89HDF\r\n\x1a\n rubbish", "no Keras file"),
        ("none.onnx", None, "no such file"),
    ],
)
def test_what_is_no_model_is_said_in_a_sentence(
    tmp_path: Path, written: Callable[[str], dict[str, Any]], name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(HeadraceError, match=says):
        written(name)
    assert not (tmp_path / f"{name}.yaml").exists()
