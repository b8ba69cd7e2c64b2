"""Worker: a LightGBM model file (text) -> model.onnx and LightGBM's own answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from cluster.errors import BadInput, HeadraceError
from cluster.signature import Datatype
from deployments.builder.sources.tables import tabular
from deployments.builder.sources.tables.sandbox import enclose
from deployments.builder.sources.tables.skops_file import read_skops
from deployments.builder.worker import serve
from deployments.engines.datatypes import Array

OPSET = 15
# What skops asks about besides: the booster, which LightGBM reads from its own text.
HARMLESS = ("lightgbm.basic.Booster", "lightgbm.sklearn.LGBM", "collections.OrderedDict", "collections.defaultdict")


def step(job: dict[str, Any]) -> dict[str, Any]:
    """Job: file, allow_pickle, inputs, outputs, evaluate, task, target and expected (files to write)."""
    file = Path(job["file"])
    booster, told = load(file, job["allow_pickle"])
    names = [] if all(name.startswith("Column_") for name in booster.feature_name()) else booster.feature_name()
    found = tabular.columns(job, booster.num_feature(), names, (Datatype.FP32,))
    try:
        model = convert_lightgbm(
            _for_float32(booster),
            initial_types=[(tabular.MATRIX, FloatTensorType([None, found.width]))],
            target_opset=OPSET,
            zipmap=False,
        )
    except (RuntimeError, ValueError, NotImplementedError, KeyError, AttributeError) as error:
        raise tabular.needs(file, error, "use an objective and options that onnxmltools converts") from error
    tabular.merge_columns(model, found)
    classes = booster.dump_model()["num_class"]
    binary = booster.dump_model()["objective"].startswith(("binary", "cross_entropy"))

    def score(rows: Mapping[str, Array]) -> Mapping[str, Array]:
        answers = np.asarray(booster.predict(found.matrix(rows)))
        if binary:
            answers = np.stack([1 - answers, answers], axis=1)
        elif classes == 1:
            return tabular.as_answers({tabular.PREDICTION: answers.reshape(-1, 1)})
        return tabular.as_answers({tabular.LABEL: answers.argmax(axis=1), tabular.PROBABILITIES: answers})

    thresholds = tuple(tabular.splits(booster.dump_model()["tree_info"], "split_feature", "threshold"))
    fitted = tabular.Fitted(model, score, f"lightgbm {lightgbm.__version__}", thresholds, told)
    return tabular.finish(fitted, found.inputs, found.how, job)


def load(file: Path, allow_pickle: bool) -> tuple[Any, dict[str, Any]]:
    """The booster, and what is told of how it was read. A pickled estimator's classes are left behind: a version's are places.

    Raises BadInput.
    """
    with file.open("rb") as opened:
        text = opened.read(4) == b"tree"
    skops = file.suffix == ".skops"
    try:
        if text or not (skops or allow_pickle):
            return lightgbm.Booster(model_file=str(file)), {}
        booster = getattr(read_skops(file, HARMLESS) if skops else joblib.load(file), "booster_", None)
    except HeadraceError:
        raise
    except lightgbm.basic.LightGBMError as error:
        raise BadInput(
            f"is no LightGBM model: {error}", where=str(file), remedy="save it with booster.save_model(path)"
        ) from error
    except Exception as error:
        raise BadInput(f"can't be read: {error}", where=str(file), remedy="save booster_ with save_model(path)") from error
    if not isinstance(booster, lightgbm.Booster):
        raise BadInput("holds no fitted LightGBM model", where=str(file), remedy="save booster_ with save_model(path)")
    return booster, {} if skops else {"pickle": "allowed by the document"}


def _for_float32(booster: lightgbm.Booster) -> lightgbm.Booster:
    """The same trees with thresholds that are float32: a number goes left where it is at most the threshold, so a float32 does
    exactly where it is at most the largest float32 below. The nearest one, which the converter takes, may lie above."""
    lines = []
    for line in booster.model_to_string().splitlines():
        name, _, values = line.partition("=")
        if name == "threshold":
            line = f"threshold={' '.join(repr(_below(float(value))) for value in values.split())}"
        if name != "tree_sizes":  # of the text as it was; it is read without, too
            lines.append(line)
    return lightgbm.Booster(model_str="\n".join(lines) + "\n")


def _below(threshold: float) -> float:
    """The largest float32 that is at most as large."""
    nearest = np.float32(threshold)
    return float(np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > threshold else nearest)


if __name__ == "__main__":
    enclose()
    serve(step)
