"""Worker: an XGBoost model file (JSON or UBJ) -> model.onnx and XGBoost's own answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from cluster.errors import BadInput
from cluster.signature import Datatype
from deployments.builder.sources.tables import tabular
from deployments.builder.sources.tables.sandbox import enclose
from deployments.builder.worker import serve
from deployments.engines.datatypes import Array

OPSET = 15


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, inputs, outputs, evaluate, task, target and expected (files to write)."""
    file = Path(job["file"])
    booster = load(file)
    found = tabular.columns(job, booster.num_features(), booster.feature_names or [], (Datatype.FP32,))
    booster.feature_names = None  # the converter knows f0, f1... only
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    try:
        model = convert_xgboost(
            booster, initial_types=[(tabular.MATRIX, FloatTensorType([None, found.width]))], target_opset=OPSET
        )
    except (RuntimeError, ValueError, NotImplementedError, KeyError, AttributeError) as error:
        raise tabular.needs(file, error, "use an objective and options that onnxmltools converts") from error
    tabular.merge_columns(model, found)

    def score(rows: Mapping[str, Array]) -> Mapping[str, Array]:
        matrix = xgboost.DMatrix(found.matrix(rows))
        if objective.startswith("multi:"):
            raw = booster.predict(matrix, output_margin=True)
            shifted = np.exp(raw - raw.max(axis=1, keepdims=True))
            answers = shifted / shifted.sum(axis=1, keepdims=True)
        elif objective.startswith("binary:"):
            one = np.asarray(booster.predict(matrix))
            answers = np.stack([1 - one, one], axis=1)
        else:
            return tabular.as_answers({tabular.PREDICTION: np.asarray(booster.predict(matrix)).reshape(-1, 1)})
        return tabular.as_answers({tabular.LABEL: answers.argmax(axis=1), tabular.PROBABILITIES: answers})

    trees = [json.loads(tree) for tree in booster.get_dump(dump_format="json")]
    thresholds = tuple((int(name.removeprefix("f")), value) for tree in trees for name, value in _splits(tree))
    fitted = tabular.Fitted(model, score, f"xgboost {xgboost.__version__}", thresholds)
    return tabular.finish(fitted, found.inputs, found.how, job)


def load(file: Path) -> xgboost.Booster:
    """Reads a JSON or UBJ file. Raises BadInput."""
    booster = xgboost.Booster()
    try:
        booster.load_model(file)
    except (xgboost.core.XGBoostError, ValueError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise BadInput(
            f"is no XGBoost model: {first}", where=str(file), remedy="save it with booster.save_model('model.json') or .ubj"
        ) from error
    return booster


def _splits(node: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The feature's name and the threshold of each numeric split."""
    own = [(node["split"], float(node["split_condition"]))] if isinstance(node.get("split_condition"), int | float) else []
    return own + [one for child in node.get("children", ()) for one in _splits(child)]


if __name__ == "__main__":
    enclose()
    serve(step)
