"""Fitted estimators over tables: scikit-learn, XGBoost, LightGBM, CatBoost, each equal to its own library's answers."""

from __future__ import annotations

import os.path
import pickle
from pathlib import Path
from typing import Any

import catboost
import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from cluster.errors import BadInput
from deployments.builder.report import IMPORTED
from tests.support.builds import answer, refused, run

# Files of its own beside the test, and a line a tree, are not wanted.
CATBOOST = {"verbose": 0, "allow_writing_files": False, "thread_count": 1}

pytestmark = pytest.mark.usefixtures("builds_here")


def columns(*names: str, datatype: str = "FP32") -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": [-1, 1]} for name in names]


def credit(rows: int = 400) -> tuple[pd.DataFrame, np.ndarray]:
    """Incomes, ages and purposes, and who repaid."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "income": random.lognormal(3, 1, rows).astype(np.float32).astype(np.float64),
            "age": random.integers(18, 80, rows).astype(np.float64),
            "purpose": random.choice(["car", "house", "\u00e9tudes"], rows).astype(object),
        }
    )
    odds = 0.05 * table["income"] - 0.02 * table["age"] + (table["purpose"] == "house")
    return table, np.where(odds > odds.median(), "good", "bad")


def test_a_pipeline_with_text_columns_answers_as_scikit_learn(tmp_path: Path) -> None:
    table, label = credit()
    prepared = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["income", "age"]),
            ("texts", OneHotEncoder(handle_unknown="ignore"), ["purpose"]),
        ]
    )
    pipeline = make_pipeline(prepared, LogisticRegression()).fit(table, label)
    skops.io.dump(pipeline, tmp_path / "m.skops")
    table["label"] = label
    table.to_parquet(tmp_path / "rows.parquet")
    inputs = [*columns("purpose", datatype="BYTES"), *columns("age", "income")]
    section = {
        "source": {"sklearn": "m.skops"},
        "inputs": inputs,
        "outputs": ["probabilities", "label"],
        "evaluate": {"data": "rows.parquet", "label": "label"},
        "optimise": False,
    }
    built = run(tmp_path, section)
    few = table.drop(columns="label").head(20)
    found = answer(
        built,
        income=few[["income"]].to_numpy(),
        age=few[["age"]].to_numpy(),
        purpose=np.array([[word.encode()] for word in few["purpose"]], object),
    )
    np.testing.assert_allclose(found["probabilities"], pipeline.predict_proba(few), atol=1e-5)
    assert found["label"].tolist() == [name.encode() for name in pipeline.predict(few)]
    quality = built.report.variant(IMPORTED).quality
    assert quality is not None
    assert quality.accuracy == pytest.approx(float((pipeline.predict(table.drop(columns="label")) == label).mean()))
    assert quality.cross_entropy is not None
    assert built.report.source["differ"]["other"] == 0
    error = refused(tmp_path / "..", {"source": {"sklearn": str(tmp_path / "m.skops")}}, "the columns income, age, purpose")
    assert "BYTES" in error.remedy


def test_a_bare_estimator_takes_columns_with_any_names(tmp_path: Path) -> None:
    iris = load_iris(as_frame=True)
    table = iris.data
    estimator = LogisticRegression(max_iter=500).fit(table, iris.target)
    skops.io.dump(estimator, tmp_path / "m.skops")
    inputs = columns(*reversed(table.columns), datatype="FP64")
    built = run(tmp_path, {"source": {"sklearn": "m.skops"}, "inputs": inputs, "optimise": False})
    found = answer(built, **{name: table[[name]].to_numpy() for name in table})
    np.testing.assert_allclose(found["probabilities"], estimator.predict_proba(table), atol=1e-6)


def test_missing_numbers_reach_the_imputer_where_the_document_says_so(tmp_path: Path) -> None:
    table, label = credit()
    table = table.drop(columns="purpose").assign(age=table["age"].where(table.index % 7 != 0))
    pipeline = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(table, label)
    skops.io.dump(pipeline, tmp_path / "m.skops")
    table.assign(label=label).to_parquet(tmp_path / "rows.parquet")
    evaluate = {"data": "rows.parquet", "label": "label"}
    section = {"source": {"sklearn": "m.skops"}, "inputs": columns("income", "age"), "optimise": False, "evaluate": evaluate}
    assert "refuse_nan: false" in refused(tmp_path, section, "column age has 58 nulls").remedy
    built = run(tmp_path, section | {"evaluate": evaluate | {"refuse_nan": False}})
    quality = built.report.variant(IMPORTED).quality
    assert quality is not None
    assert quality.accuracy == pytest.approx(float((pipeline.predict(table) == label).mean()))
    found = answer(built, income=table[["income"]].to_numpy(), age=table[["age"]].to_numpy())
    np.testing.assert_allclose(found["probabilities"], pipeline.predict_proba(table), atol=1e-5)


def test_a_pickle_is_read_only_where_the_document_says_so(tmp_path: Path) -> None:
    iris = load_iris()
    forest = RandomForestClassifier(20, random_state=0).fit(iris.data, iris.target)
    joblib.dump(forest, tmp_path / "m.joblib")
    refused(tmp_path, {"source": {"sklearn": "m.joblib"}}, "runs code when it is read; it was not read")
    np.savez(tmp_path / "rows.npz", input=iris.data.astype(np.float32), label=iris.target)
    section = {
        "source": {"sklearn": {"file": "m.joblib", "allow_pickle": True}},
        "evaluate": {"data": "rows.npz", "label": "label"},
        "optimise": False,
    }
    built = run(tmp_path, section)
    assert built.report.source["pickle"] == "allowed by the document"
    found = answer(built, input=iris.data)
    assert found["label"].tolist() == forest.predict(iris.data.astype(np.float32)).tolist()
    differ = built.report.source["differ"]
    assert differ["rows"] == 150
    assert differ["other"] == 0
    assert differ["at_thresholds"] > 100
    with (tmp_path / "other.pkl").open("wb") as file:
        pickle.dump({"no": "model"}, file)
    with pytest.raises(BadInput, match="dict has no predict"):
        run(tmp_path, {"source": {"sklearn": {"file": "other.pkl", "allow_pickle": True}}})


def test_a_forest_needs_no_pickle_and_a_function_is_refused(tmp_path: Path) -> None:
    iris = load_iris()
    forest = RandomForestClassifier(5, random_state=0).fit(iris.data, iris.target)
    skops.io.dump(forest, tmp_path / "m.skops")
    built = run(tmp_path, {"source": {"sklearn": "m.skops"}, "optimise": False})
    assert answer(built, input=iris.data)["label"].tolist() == forest.predict(iris.data.astype(np.float32)).tolist()
    called = make_pipeline(FunctionTransformer(os.path.basename), LogisticRegression())
    skops.io.dump(called, tmp_path / "called.skops")
    with pytest.raises(BadInput, match=r"posixpath\.basename, which skops does not know to be safe"):
        run(tmp_path, {"source": {"sklearn": "called.skops"}})


@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost"])
@pytest.mark.parametrize("kind", ["binary", "classes", "number"])
def test_boosted_trees_answer_as_their_library(tmp_path: Path, library: str, kind: str) -> None:
    data = {"binary": load_breast_cancer, "classes": load_iris, "number": load_diabetes}[kind]()
    x, y = data.data.astype(np.float32), data.target
    file, theirs = fit(library, kind, x, y, tmp_path)
    np.savez(tmp_path / "rows.npz", input=x, label=y)
    task = "regression" if kind == "number" else "classification"
    evaluate = {"data": "rows.npz", "label": "label", "task": task}
    built = run(tmp_path, {"source": {library: file}, "evaluate": evaluate, "optimise": False})
    found = answer(built, input=x)
    if kind == "number":
        np.testing.assert_allclose(found["prediction"][:, 0], theirs, rtol=1e-5)
    else:
        expected = np.stack([1 - theirs, theirs], axis=1) if kind == "binary" else theirs
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
        assert found["label"].tolist() == expected.argmax(axis=1).tolist()
    assert built.report.source["differ"]["other"] == 0
    assert built.report.source["differ"]["at_thresholds"] > 10
    assert built.report.source["differ"]["other_at_thresholds"] == 0


def fit(library: str, kind: str, x: np.ndarray, y: np.ndarray, folder: Path) -> tuple[str, np.ndarray]:
    """The model's file, and the library's answers."""
    more = {"num_class": 3} if kind == "classes" else {}
    if library == "xgboost":
        objective = {"binary": "binary:logistic", "classes": "multi:softprob", "number": "reg:squarederror"}[kind]
        booster = xgboost.train({"objective": objective, "max_depth": 3, **more}, xgboost.DMatrix(x, label=y), 8)
        booster.save_model(folder / "m.ubj")
        return "m.ubj", booster.predict(xgboost.DMatrix(x))
    if library == "catboost":
        made = catboost.CatBoostRegressor if kind == "number" else catboost.CatBoostClassifier
        fitted = made(iterations=8, depth=3, **CATBOOST).fit(x, y)
        fitted.save_model(folder / "m.cbm")
        answers = fitted.predict(x) if kind == "number" else fitted.predict_proba(x)
        return "m.cbm", answers[:, 1] if kind == "binary" else answers
    objective = {"binary": "binary", "classes": "multiclass", "number": "regression"}[kind]
    model = lightgbm.train({"objective": objective, "verbose": -1, **more}, lightgbm.Dataset(x, label=y), 30)
    model.save_model(folder / "m.txt")
    return "m.txt", np.asarray(model.predict(x))


def test_boosted_trees_take_columns_by_name(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame({"income": random.normal(size=300), "debt": random.normal(size=300)}).astype(np.float32)
    booster = xgboost.train({}, xgboost.DMatrix(table, label=table["income"] - 2 * table["debt"]), 10)
    booster.save_model(tmp_path / "m.json")
    built = run(tmp_path, {"source": {"xgboost": "m.json"}, "inputs": columns("debt", "income"), "optimise": False})
    found = answer(built, income=table[["income"]].to_numpy(), debt=table[["debt"]].to_numpy())
    np.testing.assert_allclose(found["prediction"][:, 0], booster.predict(xgboost.DMatrix(table)), rtol=1e-5, atol=1e-5)
    refused_section = {"source": {"xgboost": "m.json"}, "inputs": columns("owed", "income")}
    with pytest.raises(BadInput, match="no input owed; its inputs are income, debt"):
        run(tmp_path, refused_section)
