"""Worker: a fitted scikit-learn estimator or Pipeline (skops, or pickle where allowed) -> model.onnx and its own answers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pandas as pd
import sklearn
from skl2onnx import to_onnx
from skl2onnx.common.data_types import (
    BooleanTensorType,
    DoubleTensorType,
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
)
from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.builder.sources.binding import BY_NAME, bind
from deployments.builder.sources.rows import read_inputs
from deployments.builder.sources.tables import tabular
from deployments.builder.sources.tables.sandbox import enclose
from deployments.builder.sources.tables.skops_file import read_skops
from deployments.builder.steps.renaming import rename
from deployments.builder.worker import serve
from deployments.engines.datatypes import Array

OPSET = {"": 18, "ai.onnx.ml": 3}
TYPES = {
    Datatype.FP32: FloatTensorType,
    Datatype.FP64: DoubleTensorType,
    Datatype.INT64: Int64TensorType,
    Datatype.BOOL: BooleanTensorType,
    Datatype.BYTES: StringTensorType,
}
# What skops asks about besides, and holds numbers only: encoders' datatypes, and scikit-learn's own trees and losses. Wrong ones
# in those could end this process, no more. A function that a FunctionTransformer calls goes by its own name, and is refused.
HARMLESS = ("numpy.dtype", "sklearn.tree._tree.", "sklearn.ensemble._", "sklearn._loss.")
FAULTS = (MissingConverter, MissingShapeCalculator, RuntimeError, ValueError, TypeError, NotImplementedError, KeyError)


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, allow_pickle, inputs, outputs, evaluate, task, target and expected (files to write)."""
    file = Path(job["file"])
    estimator, told = load(file, job["allow_pickle"])
    if not hasattr(estimator, "predict"):
        raise BadInput(f"{type(estimator).__name__} has no predict", where=str(file), remedy="give a classifier or a regressor")
    inputs, how = _inputs(estimator, job)
    classifies = hasattr(estimator, "predict_proba")
    model = _converted(estimator, inputs, classifies, file)

    def score(rows: Mapping[str, Array]) -> Mapping[str, Array]:
        table = _table(inputs, rows)
        if not classifies:
            return tabular.as_answers({tabular.PREDICTION: np.asarray(estimator.predict(table)).reshape(len(table), -1)})
        return tabular.as_answers(
            {tabular.LABEL: estimator.predict(table), tabular.PROBABILITIES: estimator.predict_proba(table)}
        )

    fitted = tabular.Fitted(model, score, f"scikit-learn {sklearn.__version__}", tuple(_thresholds(estimator)), told)
    return tabular.finish(fitted, inputs, how, job)


def _converted(estimator: Any, inputs: tuple[TensorSpec, ...], classifies: bool, file: Path) -> onnx.ModelProto:
    """The graph over the inputs. Columns that are alike are also tried as one matrix, which is all that a bare estimator reads.

    Raises BadInput.
    """

    def convert(kinds: Sequence[tuple[str, Any]]) -> onnx.ModelProto:
        options = {id(estimator): {"zipmap": False}} if classifies else None
        found: onnx.ModelProto = to_onnx(estimator, initial_types=list(kinds), options=options, target_opset=OPSET)
        return found

    try:
        model = convert([(spec.name, TYPES[spec.datatype]([None, *spec.shape[1:]])) for spec in inputs])
    except FAULTS as error:
        fault = tabular.needs(file, error, "replace that step, or export it to ONNX yourself and name source: onnx")
        if len(inputs) == 1 or {spec.datatype for spec in inputs} not in ({Datatype.FP32}, {Datatype.FP64}):
            raise fault from error
        try:
            model = convert([(tabular.MATRIX, TYPES[inputs[0].datatype]([None, len(inputs)]))])
        except FAULTS:
            raise fault from error
        tabular.merge_columns(model, tabular.Columns(inputs, len(inputs), BY_NAME))
    _name_back(model, inputs)
    return model


def _name_back(model: onnx.ModelProto, inputs: Sequence[TensorSpec]) -> None:
    """The converter makes identifiers of columns like `sepal length (cm)`, in the same order. Raises BadInput."""
    given = [item.name for item in model.graph.input]
    wanted = [spec.name for spec in inputs]
    renamed = [name for name in wanted if name not in given]
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)} - set(given)
    if renamed and (len(given) != len(wanted) or taken & set(wanted)):
        raise BadInput(
            f"the converter renamed {', '.join(renamed)}", where="inputs", remedy="use letters, digits and underscores"
        )
    if renamed:
        rename(model, dict(zip(given, wanted, strict=True)))


def load(file: Path, allow_pickle: bool) -> tuple[Any, dict[str, Any]]:
    """The estimator, and what is told of how it was read. Raises BadInput where that would run code which nobody allowed."""
    if file.suffix == ".skops":
        return read_skops(file, HARMLESS), {}
    if not allow_pickle:
        raise BadInput(
            "is a pickle, which runs code when it is read; it was not read",
            where=str(file),
            remedy="save it with skops.io.dump(model, 'model.skops'), or say allow_pickle: true where you trust who made it",
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = joblib.load(file)
        except ModuleNotFoundError as error:
            raise BadInput(f"needs the package {error.name}", where=str(file), remedy="install it beside Headrace") from error
        except Exception as error:
            raise BadInput(f"can't be read: {error}", where=str(file), remedy="save it again with joblib.dump") from error
    other = [str(one.message).split(".", 1)[0] for one in caught if "version" in str(one.message)]
    return found, {"pickle": "allowed by the document", **({"warnings": other[:1]} if other else {})}


def _inputs(estimator: Any, job: Mapping[str, Any]) -> tuple[tuple[TensorSpec, ...], str]:
    """The inputs, in the order of the columns that the estimator was fitted on."""
    listed = read_inputs(job)
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    width = getattr(estimator, "n_features_in_", len(names))
    wrong = next((spec for spec in listed if spec.datatype not in TYPES), None)
    if wrong is not None:
        known = ", ".join(str(one) for one in TYPES)
        raise BadInput(f"input {wrong.name} is {wrong.datatype}", where="inputs", remedy=f"use one of {known}")
    if not listed:
        if names:
            raise BadInput(
                f"the model reads the columns {', '.join(names)}, whose datatypes it does not tell",
                where="inputs",
                remedy="list each with name, datatype and shape [-1, 1]; text is BYTES",
            )
        return (TensorSpec(name=tabular.MATRIX, datatype=Datatype.FP32, shape=(-1, width)),), BY_NAME
    if len(listed) == 1 and listed[0].shape == (-1, width):
        return (tabular.spec_of(listed[0]),), BY_NAME
    if any(spec.shape != (-1, 1) for spec in listed):
        raise BadInput(
            f"the model reads {width} columns",
            where="inputs",
            remedy=f"list one input of shape [-1, {width}], or one of shape [-1, 1] for each column",
        )
    if not names:
        if len(listed) != width:
            raise BadInput(
                f"{len(listed)} columns are listed, the model reads {width}", where="inputs", remedy="list each, in order"
            )
        return tuple(tabular.spec_of(one) for one in listed), "in the order listed: the source has no names"
    binding = bind([spec.name for spec in listed], names, what="inputs")
    by_name = {spec.name: spec for spec in listed}
    return tuple(tabular.spec_of(by_name[name]) for name in binding.names.values()), binding.how


def _table(inputs: tuple[TensorSpec, ...], rows: Mapping[str, Array]) -> Any:
    """The rows as the estimator was fitted on: doubles and text in named columns, or one matrix."""
    if len(inputs) == 1 and inputs[0].shape[1] > 1:
        return rows[inputs[0].name].astype(np.float64)
    columns = {}
    for spec in inputs:
        value = rows[spec.name][:, 0]
        if spec.datatype is Datatype.BYTES:
            columns[spec.name] = np.array([item.decode() for item in value.tolist()], dtype=object)
        else:
            columns[spec.name] = value.astype(np.float64) if value.dtype.kind == "f" else value
    return pd.DataFrame(columns)


def _thresholds(estimator: Any) -> list[tuple[int, float]]:
    """Those of trees that read the inputs themselves; behind other steps a threshold is none of an input."""
    trees = [estimator, *np.ravel(np.asarray(getattr(estimator, "estimators_", []), dtype=object)).tolist()]
    found = []
    for tree in (getattr(one, "tree_", None) for one in trees):
        if tree is not None:
            inner = tree.feature >= 0
            found += list(zip(tree.feature[inner].tolist(), tree.threshold[inner].tolist(), strict=True))
    return found


if __name__ == "__main__":
    enclose()
    serve(step)
