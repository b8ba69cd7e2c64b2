"""CatBoost models of every kind of answer: each as its own library gives it, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import catboost
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_iris

from deployments.builder.pipeline import Built
from tests.support.builds import answer, refused, run

pytestmark = pytest.mark.usefixtures("builds_here")

QUIET = {"verbose": 0, "allow_writing_files": False, "thread_count": 1, "iterations": 5, "depth": 3}
IRIS, DIABETES = load_iris(), load_diabetes()
FLOWERS, PATIENTS = IRIS.data.astype(np.float32), DIABETES.data.astype(np.float32)


def made(folder: Path, model: Any, rows: np.ndarray, *, task: str = "classification", file: str = "m.cbm") -> Built:
    """The version of a fitted model, judged on its own rows."""
    model.save_model(folder / file, format=Path(file).suffix[1:])
    np.savez(folder / "rows.npz", input=rows)
    built = run(folder, {"source": {"catboost": file}, "evaluate": {"data": "rows.npz", "task": task}, "measure": {"seconds": 1}})
    assert built.report.source["differ"]["other"] == 0
    assert built.report.source["differ"]["other_at_thresholds"] == 0
    return built


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (IRIS.target > 0, [0, 1]),
        (np.where(IRIS.target > 0, 5, 2), [2, 5]),
        (np.array(IRIS.target_names)[IRIS.target], [b"setosa", b"versicolor", b"virginica"]),
        ((IRIS.target > 0) * 1.5, [b"0.0", b"1.5"]),
    ],
    ids=["truths", "numbers", "text", "fractions"],
)
def test_classes_are_called_as_the_model_calls_them(tmp_path: Path, classes: np.ndarray, expected: list[Any]) -> None:
    model = catboost.CatBoostClassifier(**QUIET).fit(FLOWERS, classes)
    found = answer(made(tmp_path, model, FLOWERS), input=FLOWERS)
    theirs = model.predict_proba(FLOWERS)
    np.testing.assert_allclose(found["probabilities"], theirs, atol=1e-6)
    assert found["label"].tolist() == [expected[place] for place in theirs.argmax(axis=1)]


def test_the_second_class_begins_where_the_model_s_own_threshold_says(tmp_path: Path) -> None:
    model = catboost.CatBoostClassifier(**QUIET).fit(FLOWERS, IRIS.target > 1)
    model.set_probability_threshold(0.2)
    found = answer(made(tmp_path, model, FLOWERS, file="m.json"), input=FLOWERS)
    above = found["probabilities"][:, 1] > 0.2
    assert found["label"].tolist() == above.astype(int).tolist()
    assert 0 < int(above.sum()) != int((found["probabilities"][:, 1] > 0.5).sum())


@pytest.mark.parametrize("objective", ["MultiClassOneVsAll", "MultiLogloss"])
def test_scores_that_do_not_add_up_to_one_are_not_made_to(tmp_path: Path, objective: str) -> None:
    single = objective == "MultiClassOneVsAll"
    labels = IRIS.target if single else np.stack([IRIS.target > 0, IRIS.target > 1], axis=1).astype(int)
    model = catboost.CatBoostClassifier(loss_function=objective, **QUIET).fit(FLOWERS, labels)
    found = answer(made(tmp_path, model, FLOWERS), input=FLOWERS)
    theirs = model.predict(FLOWERS, prediction_type="Probability")
    np.testing.assert_allclose(found["probabilities"], theirs, atol=1e-6)
    assert float(np.abs(theirs.sum(axis=1) - 1).max()) > 0.01
    assert ("label" in found) is single


@pytest.mark.parametrize("objective", ["Poisson", "MultiRMSE"])
def test_numbers_are_those_that_predict_gives(tmp_path: Path, objective: str) -> None:
    amounts = DIABETES.target if objective == "Poisson" else np.stack([DIABETES.target, -2 * DIABETES.target], axis=1)
    model = catboost.CatBoostRegressor(loss_function=objective, **QUIET).fit(PATIENTS, amounts)
    found = answer(made(tmp_path, model, PATIENTS, task="regression"), input=PATIENTS)["prediction"]
    np.testing.assert_allclose(found, model.predict(PATIENTS).reshape(found.shape), rtol=1e-5)


def test_columns_by_name_and_rows_with_gaps(tmp_path: Path) -> None:
    table = pd.DataFrame(PATIENTS[:, :3], columns=["age", "sex", "bmi"])
    table.iloc[::7, 2] = np.nan
    model = catboost.CatBoostRegressor(**QUIET).fit(table, DIABETES.target)
    model.set_scale_and_bias(0.5, 10.0)
    model.save_model(tmp_path / "m.cbm")
    inputs = [{"name": name, "datatype": "FP32", "shape": [-1, 1]} for name in ("bmi", "age", "sex")]
    built = run(tmp_path, {"source": {"catboost": "m.cbm"}, "inputs": inputs, "measure": {"seconds": 1}})
    found = answer(built, **{name: table[[name]].to_numpy() for name in table})
    np.testing.assert_allclose(found["prediction"][:, 0], model.predict(table), rtol=1e-5)


def test_what_has_no_form_in_onnx_is_named(tmp_path: Path) -> None:
    table = pd.DataFrame({"amount": FLOWERS[:, 0], "purpose": np.array(["car", "house"])[IRIS.target % 2]})
    catboost.CatBoostClassifier(cat_features=["purpose"], **QUIET).fit(table, IRIS.target).save_model(tmp_path / "text.cbm")
    error = refused(tmp_path, {"source": {"catboost": "text.cbm"}}, r"has categorical features \(purpose\)")
    assert "source: sklearn" in error.remedy
    catboost.CatBoostClassifier(grow_policy="Lossguide", **QUIET).fit(FLOWERS, IRIS.target).save_model(tmp_path / "grown.cbm")
    refused(tmp_path, {"source": {"catboost": "grown.cbm"}}, "trees are not symmetric")
    unsure = catboost.CatBoostRegressor(loss_function="RMSEWithUncertainty", **QUIET).fit(PATIENTS, DIABETES.target)
    unsure.save_model(tmp_path / "unsure.cbm")
    refused(tmp_path, {"source": {"catboost": "unsure.cbm"}}, "trained for RMSEWithUncertainty")
    (tmp_path / "broken.cbm").write_bytes(b"CBM1" + b"\0" * 100)
    refused(tmp_path, {"source": {"catboost": "broken.cbm"}}, "is no CatBoost model")
