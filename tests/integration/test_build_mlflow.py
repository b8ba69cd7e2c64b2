"""Models that MLflow keeps, in a real store and in folders: resolved once, and equal to their own library's answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import mlflow
import mlflow.catboost
import mlflow.lightgbm
import mlflow.onnx
import mlflow.pytorch
import mlflow.sklearn
import mlflow.xgboost
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
import xgboost
from mlflow.models import infer_signature
from mlflow.tracking import MlflowClient
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cluster.errors import NotFound
from deployments.artifacts.manifest import read_manifest
from deployments.builder.sources.mlflow_models.resolve import push
from headrace.cli.exits import ExitCode
from headrace.cli.main import main
from tests.support.brain import Brain
from tests.support.brain_client import ask_brain
from tests.support.builds import answer, refused, run

pytestmark = pytest.mark.usefixtures("builds_here")

FIXTURES = Path(__file__).parent.parent / "fixtures" / "mlflow"  # written by MLflow 3.17 and TensorFlow 2.20
IRIS, CANCER = load_iris(as_frame=True), load_breast_cancer()
PLAIN: dict[str, Any] = {"pip_requirements": ["numpy"]}  # else MLflow looks through all that is installed


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tracking URI of a store with the model `flowers`: version 1, then version 2 as its champion."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.chdir(folder)
        before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("e", artifact_location=(folder / "files").as_uri()))
        signature = infer_signature(IRIS.data, IRIS.target)
        for strength in (0.01, 1.0):
            with mlflow.start_run():
                mlflow.sklearn.log_model(
                    flowers(strength),
                    name="model",
                    input_example=IRIS.data.head(3),
                    signature=signature,
                    registered_model_name="flowers",
                    serialization_format="skops",
                    **PLAIN,
                )
        MlflowClient().set_registered_model_alias("flowers", "champion", "2")
        # Whoever asks must say where: nothing is left set in this process.
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
        yield uri
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


def flowers(strength: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength)).fit(IRIS.data, IRIS.target)


@pytest.mark.parametrize(("named", "version"), [("@champion", "2"), ("/1", "1"), ("/latest", "2")])
def test_a_registered_version_is_resolved_once_and_kept(tmp_path: Path, store: str, named: str, version: str) -> None:
    said: list[str] = []
    section = {"source": {"mlflow": {"uri": f"models:/flowers{named}", "tracking_uri": store}}, "optimise": False}
    built = run(tmp_path, section, said=said)
    found = answer(built, **{name: IRIS.data[[name]].to_numpy() for name in IRIS.data})
    theirs = flowers(1.0 if version == "2" else 0.01).predict_proba(IRIS.data)
    np.testing.assert_allclose(found["probabilities"], theirs, atol=1e-6)
    assert built.artifact is not None
    kept = read_manifest(Path(built.artifact.uri)).source["mlflow"]
    assert (kept["name"], kept["version"], kept["flavour"]) == ("flowers", version, "sklearn")
    assert kept.get("alias") == ("champion" if named == "@champion" else None)
    assert len(kept["sha256"]) == 64
    assert kept["run_id"]
    assert any(f"is version {version}" in line for line in said)
    assert built.report.data == {**built.report.data, "file": "the input example", "rows": 8}
    inputs = built.artifact.manifest.signature.inputs
    assert [(spec.name, spec.datatype.value) for spec in inputs] == [(name, "FP64") for name in IRIS.data]


def test_what_is_not_there_is_said(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it where its own setting is changed

    def source(uri: str) -> dict[str, Any]:
        return {"source": {"mlflow": {"uri": uri, "tracking_uri": store}}}

    refused(tmp_path, source("models:/flowers@nobody"), "alias nobody not found", NotFound)
    refused(tmp_path, source("models:/flowers/7"), "version=7", NotFound)
    refused(tmp_path, source("models:/flowers/latest/x"), "no URI of a model")
    refused(tmp_path, source("models:/flowers/Production"), "names a stage")
    refused(tmp_path, source("runs:/0123/model"), "0123 not found", NotFound)
    refused(tmp_path, {"source": {"mlflow": "nowhere"}}, "no such folder", NotFound)
    refused(tmp_path, {"source": {"mlflow": "models:/flowers/1"}}, "no tracking server or store is named")
    missing = {"uri": "models:/flowers/1", "tracking_uri": "sqlite:///none.db"}
    refused(tmp_path, {"source": {"mlflow": missing}}, "no such store", NotFound)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost"])
def test_boosted_trees_in_a_folder(tmp_path: Path, library: str) -> None:
    x, y = CANCER.data.astype(np.float32), CANCER.target
    example = {"signature": infer_signature(x), "input_example": x[:4], **PLAIN}
    if library == "xgboost":
        model = xgboost.XGBClassifier(n_estimators=8, max_depth=3).fit(x, y)
        mlflow.xgboost.save_model(model, tmp_path / "kept", **example)
    elif library == "lightgbm":
        model = lightgbm.LGBMClassifier(n_estimators=8, verbose=-1).fit(x, y)
        mlflow.lightgbm.save_model(model, tmp_path / "kept", **example)
    else:
        model = catboost.CatBoostClassifier(iterations=8, verbose=0, allow_writing_files=False).fit(x, y)
        mlflow.catboost.save_model(model, tmp_path / "kept", **example)
    built = run(tmp_path, {"source": {"mlflow": "kept"}, "optimise": False})
    found = answer(built, input=x)
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(x), atol=1e-5)
    assert built.report.source["mlflow"]["flavour"] == library
    assert built.report.source["differ"]["rows"] == 8


def test_text_columns_take_their_rows_from_the_input_example(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"income": IRIS.data.iloc[:, 0], "age": (IRIS.data.iloc[:, 1] * 10).astype(np.int64), "purpose": ["car", "house"] * 75}
    )
    prepared = ColumnTransformer(
        [("numbers", StandardScaler(), ["income", "age"]), ("texts", OneHotEncoder(handle_unknown="ignore"), ["purpose"])]
    )
    pipeline = make_pipeline(prepared, LogisticRegression()).fit(table, IRIS.target)
    mlflow.sklearn.save_model(
        pipeline,
        tmp_path / "kept",
        signature=infer_signature(table),
        input_example=table.head(5),
        serialization_format="pickle",
        **PLAIN,
    )
    refused(tmp_path, {"source": {"mlflow": "kept"}}, "is kept as a pickle")
    built = run(tmp_path, {"source": {"mlflow": {"uri": "kept", "allow_pickle": True}}, "optimise": False})
    assert built.report.source["pickle"] == "allowed by the document"
    found = answer(
        built,
        income=table[["income"]].to_numpy(),
        age=table[["age"]].to_numpy(),
        purpose=np.array([[word.encode()] for word in table["purpose"]], object),
    )
    np.testing.assert_allclose(found["probabilities"], pipeline.predict_proba(table), atol=1e-5)


class UserNet(torch.nn.Module):
    """Two inputs, whose order shows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, income: torch.Tensor, debt: torch.Tensor) -> torch.Tensor:
        """The first less the second, weighted."""
        return self.weight[0] * income - self.weight[1] * debt


def test_a_network_as_a_pickle_and_as_a_program(tmp_path: Path) -> None:
    rows = {"income": np.ones((4, 1), np.float32), "debt": np.full((4, 1), 0.5, np.float32)}
    signature = infer_signature(rows, np.zeros((4, 1), np.float32))
    mlflow.pytorch.save_model(UserNet(), tmp_path / "pickled", signature=signature, serialization_format="pickle", **PLAIN)
    refused(tmp_path, {"source": {"mlflow": "pickled"}}, "model.pth is kept as a pickle")
    built = run(tmp_path, {"source": {"mlflow": {"uri": "pickled", "allow_pickle": True}}, "optimise": False})
    assert answer(built, **rows)["output"].tolist() == [[0.5]] * 4
    one = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU()).eval()
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    mlflow.pytorch.save_model(
        one, tmp_path / "program", signature=infer_signature(x), input_example=x, serialization_format="pt2", **PLAIN
    )
    built = run(tmp_path, {"source": {"mlflow": "program"}, "optimise": False})
    np.testing.assert_allclose(answer(built, input=x)["output"], one(torch.from_numpy(x)).detach().numpy(), atol=1e-6)


def test_a_network_of_keras_as_the_flavour_tensorflow_keeps_it(tmp_path: Path) -> None:
    built = run(tmp_path, {"source": {"mlflow": str(FIXTURES / "keras_model")}, "optimise": False})
    with np.load(FIXTURES / "flowers.npz") as expected:
        np.testing.assert_allclose(answer(built, input=expected["x"])["output"], expected["y"], atol=1e-6)
    assert built.artifact is not None
    kept = read_manifest(Path(built.artifact.uri)).source
    assert (kept["kind"], kept["mlflow"]["flavour"]) == ("keras", "tensorflow")


def test_a_version_handed_back_is_the_same_model(tmp_path: Path, store: str) -> None:
    section = {"source": {"mlflow": {"uri": "models:/flowers/1", "tracking_uri": store}}, "optimise": False}
    built = run(tmp_path, section)
    assert built.artifact is not None
    told = push(Path(built.artifact.uri), "flowers 7", "returned", tracking_uri=store, base=tmp_path, log=tmp_path / "log")
    assert (told["name"], told["version"]) == ("returned", "1")
    again = run(tmp_path, {"source": {"mlflow": {"uri": "models:/returned/1", "tracking_uri": store}}, "optimise": False})
    rows = {name: IRIS.data[[name]].to_numpy() for name in IRIS.data}
    np.testing.assert_array_equal(answer(again, **rows)["probabilities"], answer(built, **rows)["probabilities"])
    assert again.report.source["kind"] == "onnx"
    assert again.report.source["mlflow"]["run_id"] == told["run_id"]


def test_the_command_line_hands_a_version_over(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = run(tmp_path, {"source": {"mlflow": {"uri": "models:/flowers/1", "tracking_uri": store}}, "optimise": False})
    assert built.artifact is not None
    brain, manifest = Brain(), built.artifact.manifest
    told = {"artifact_uri": built.artifact.uri, "digest": built.artifact.digest, "engine": manifest.engine}
    brain.call("version.register", model="iris", **told, signature=manifest.signature.model_dump(mode="json"))

    ask_brain(brain, monkeypatch)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    words = ["model", "push", "iris", "1", "--to", "models:/handed-over", "--tracking-uri", store, "--json"]
    assert main(words) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["version"] == "1"
    again = run(tmp_path, {"source": {"mlflow": {"uri": "models:/handed-over/1", "tracking_uri": store}}, "optimise": False})
    rows = {name: IRIS.data[[name]].to_numpy() for name in IRIS.data}
    np.testing.assert_array_equal(answer(again, **rows)["probabilities"], answer(built, **rows)["probabilities"])


def test_onnx_as_it_is_and_a_folder_that_leads_elsewhere(tmp_path: Path) -> None:
    x = IRIS.data.to_numpy(np.float32)
    model = LogisticRegression().fit(x, IRIS.target)
    proto = to_onnx(model, x[:1], options={"zipmap": False})
    assert isinstance(proto, onnx.ModelProto)
    mlflow.onnx.save_model(proto, tmp_path / "kept", **PLAIN)
    built = run(tmp_path, {"source": {"mlflow": "kept"}, "optimise": False})
    np.testing.assert_allclose(answer(built, X=x)["probabilities"], model.predict_proba(x), atol=1e-5)
    assert built.report.source["kind"] == "onnx"
    said = (tmp_path / "kept" / "MLmodel").read_text()
    (tmp_path / "kept" / "MLmodel").write_text(said.replace("data: model.onnx", "data: ../model.onnx"))
    refused(tmp_path / "kept", {"source": {"mlflow": "."}}, "outside of the model's folder")
    (tmp_path / "kept" / "MLmodel").write_text("flavors: !!python/object/apply:os.getcwd []")
    refused(tmp_path / "kept", {"source": {"mlflow": "."}}, "makes no sense")
    (tmp_path / "kept" / "MLmodel").write_text("flavors: {python_function: {loader_module: other}}")
    refused(tmp_path / "kept", {"source": {"mlflow": "."}}, "none of which is data")
