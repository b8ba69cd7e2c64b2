"""What is read of MLflow's text files: signatures and input examples, and what can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cluster.errors import BadInput, NotFound
from deployments.builder.sources.mlflow_models.example import example_rows
from deployments.builder.sources.mlflow_models.flavours import inputs_of, source_of
from deployments.builder.sources.mlflow_models.mlmodel import read_mlmodel
from deployments.builder.spec import InputSpec, MlflowSource

AGE = InputSpec(name="age", datatype="INT64", shape=(-1, 1))
INCOME = InputSpec(name="income", datatype="FP32", shape=(-1, 1))
PURPOSE = InputSpec(name="purpose", datatype="BYTES", shape=(-1, 1))
MATRIX = InputSpec(name="x", datatype="FP32", shape=(-1, 2))


def write(folder: Path, flavours: dict[str, Any], inputs: list[Any] | None = None, **more: Any) -> None:
    for settings in flavours.values():
        for name in settings.values():
            (folder / name).touch()
    signature = {"inputs": json.dumps(inputs)} if inputs else None
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavours, "signature": signature, **more}))


@pytest.mark.parametrize(
    ("example", "inputs", "expected"),
    [
        ({"columns": ["income", "age"], "data": [[1.5, 30], [2.5, 40]]}, (AGE, INCOME), {"age": [30, 40], "income": [1.5, 2.5]}),
        ({"columns": ["income", "age"], "data": [[None, 30], [2.5, 40]]}, (AGE, INCOME), {"age": [40], "income": [2.5]}),
        ({"data": [[1, 2.0]]}, (AGE, INCOME), {"age": [1], "income": [2.0]}),
        ({"inputs": {"columns": ["purpose"], "data": [["café"]]}, "params": {}}, (PURPOSE,), {"purpose": ["café".encode()]}),
        ({"inputs": [[1, 2], [3, 4]]}, (MATRIX,), {"x": [[1, 2], [3, 4]]}),
        ({"inputs": {"x": [[1, 2]]}}, (MATRIX,), {"x": [[1, 2]]}),
        ([[1, 2]], (MATRIX,), {"x": [[1, 2]]}),
    ],
)
def test_an_example_in_each_of_mlflow_s_forms(
    tmp_path: Path, example: Any, inputs: tuple[InputSpec, ...], expected: dict[str, Any]
) -> None:
    (tmp_path / "example.json").write_text(json.dumps(example))
    rows = example_rows(tmp_path / "example.json", inputs)
    assert isinstance(rows, dict)
    for name, values in expected.items():
        first = rows[name][: len(values)]
        assert (first[:, 0].tolist() if first.shape[1] == 1 else first.tolist()) == values
        assert len(rows[name]) == 8  # repeated
        np.testing.assert_array_equal(rows[name][len(values) : 2 * len(values)], first[: 8 - len(values)])


@pytest.mark.parametrize(
    ("example", "inputs", "why"),
    [
        ({"columns": ["income"], "data": [[1.0]]}, (AGE, INCOME), "it has no age"),
        ({"columns": ["income", "age"], "data": [[None, 1]]}, (AGE, INCOME), "each of its rows has a gap"),
        ({"inputs": [[1, 2, 3]]}, (MATRIX,), "does not fit the signature"),
        ({"columns": ["age"], "data": [["old"]]}, (AGE,), "does not fit the signature"),
        ({"inputs": [[1, 2]]}, (), "does not say which input"),
    ],
)
def test_an_example_that_can_not_be_used_says_why(tmp_path: Path, example: Any, inputs: tuple[InputSpec, ...], why: str) -> None:
    (tmp_path / "example.json").write_text(json.dumps(example))
    said = example_rows(tmp_path / "example.json", inputs)
    assert isinstance(said, str)
    assert why in said


def test_the_flavour_and_the_signature_decide_the_inputs(tmp_path: Path) -> None:
    signature = [{"type": "double", "name": "income"}, {"type": "integer", "name": "age"}]
    write(tmp_path, {"xgboost": {"data": "model.ubj"}, "sklearn": {"pickled_model": "model.skops"}}, signature)
    model = read_mlmodel(tmp_path)
    flavour, source = source_of(model, MlflowSource(uri="."))
    assert (flavour, source.kind) == ("xgboost", "xgboost")
    assert [(one.name, one.datatype, one.shape) for one in inputs_of(model, source)] == [
        ("income", "FP32", (-1, 1)),
        ("age", "FP32", (-1, 1)),
    ]
    flavour, source = source_of(model, MlflowSource(uri=".", flavour="sklearn"))
    assert [one.datatype for one in inputs_of(model, source)] == ["FP64", "INT64"]
    with pytest.raises(BadInput, match="has no flavour onnx; it has"):
        source_of(model, MlflowSource(uri=".", flavour="onnx"))


def test_a_folder_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="has no MLmodel file"):
        read_mlmodel(tmp_path)
    write(tmp_path, {"sklearn": {"pickled_model": "model.skops"}}, [{"type": "datetime", "name": "at"}])
    model = read_mlmodel(tmp_path)
    with pytest.raises(BadInput, match="input at is datetime, which is no tensor"):
        inputs_of(model, source_of(model, MlflowSource(uri="."))[1])
    write(tmp_path, {"sklearn": {}}, saved_input_example_info={"artifact_path": "../../etc/passwd"})
    with pytest.raises(BadInput, match="outside of the model's folder"):
        read_mlmodel(tmp_path)
    (tmp_path / "MLmodel").write_text("flavors: [1")
    with pytest.raises(BadInput, match="makes no sense"):
        read_mlmodel(tmp_path)
