"""Fitted estimators: which columns they were fitted on, and which of them hold text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from deployments.builder.looking.seen import Seen, SeenInput
from deployments.builder.sources.tables.tabular import LABEL, MATRIX, PREDICTION, PROBABILITIES

WHICH_DATATYPE = "its datatype: FP32 or FP64 for numbers, INT64 for whole ones, BYTES for text"


def look_sklearn(file: Path) -> Seen:
    """A skops file. Raises BadInput for types that skops does not know to be safe."""
    from deployments.builder.sources.tables.from_sklearn import load

    estimator, _ = load(file, allow_pickle=False)
    if not hasattr(estimator, "predict"):
        raise BadInput(f"{type(estimator).__name__} has no predict", where=str(file), remedy="give a classifier or a regressor")
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    text = set(_text_columns(estimator))
    outputs = (LABEL, PROBABILITIES) if hasattr(estimator, "predict_proba") else (PREDICTION,)
    if not names:
        return Seen(inputs=_matrix(int(estimator.n_features_in_)), outputs=outputs)
    return Seen(
        inputs=tuple(
            SeenInput(spec=_column(name, Datatype.BYTES))
            if name in text
            else SeenInput(spec=_column(name), unsure=WHICH_DATATYPE)
            for name in names
        ),
        outputs=outputs,
    )


def look_xgboost(file: Path) -> Seen:
    """A JSON or UBJ file. Raises BadInput."""
    from deployments.builder.sources.tables.from_xgboost import load

    booster = load(file)
    return Seen(inputs=_columns(booster.feature_names or [], booster.num_features()))


def look_lightgbm(file: Path) -> Seen:
    """A text file. Raises BadInput."""
    from deployments.builder.sources.tables.from_lightgbm import load

    booster, _ = load(file, allow_pickle=False)
    names = booster.feature_name()
    return Seen(inputs=_columns([] if all(name.startswith("Column_") for name in names) else names, booster.num_feature()))


def look_catboost(file: Path) -> Seen:
    """A cbm or JSON file. Raises BadInput, also for features that are no numbers."""
    from deployments.builder.sources.tables.from_catboost import feature_names, load, refuse_other_features

    model = load(file)
    refuse_other_features(model, file)
    return Seen(inputs=_columns(feature_names(model), len(model.feature_names_)))


def _columns(names: Sequence[str], width: int) -> tuple[SeenInput, ...]:
    return tuple(SeenInput(spec=_column(name)) for name in names) or _matrix(width)


def _matrix(width: int) -> tuple[SeenInput, ...]:
    return (SeenInput(spec=TensorSpec(name=MATRIX, datatype=Datatype.FP32, shape=(-1, width))),)


def _column(name: str, datatype: Datatype = Datatype.FP32) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, 1))


def _text_columns(estimator: Any) -> Iterator[str]:
    """Columns that an encoder with categories of text was fitted on, in a ColumnTransformer of a Pipeline."""
    for _, inner in getattr(estimator, "steps", ()):
        yield from _text_columns(inner)
    for _, inner, columns in getattr(estimator, "transformers_", ()):
        encoders = [inner, *(one for _, one in getattr(inner, "steps", ()))]
        categories = next((one.categories_ for one in encoders if hasattr(one, "categories_")), None)
        if categories is not None and not isinstance(columns, str) and len(columns) == len(categories):
            yield from (
                str(name) for name, known in zip(columns, categories, strict=True) if np.asarray(known).dtype.kind in "OU"
            )
