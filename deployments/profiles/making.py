"""A whole profile from rows and their answers. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.datatypes import NUMPY, Array
from deployments.profiles.categories import count_categories
from deployments.profiles.form import CategoryCounts, FeatureKind, Profile, ProfileSummary, TensorProfile, TensorSide
from deployments.profiles.numbers import NumberColumns, number_columns
from deployments.profiles.outliers import calibrated

# Of all inputs together, and of all outputs.
MOST_FEATURES = 4096
# Each is counted by itself.
MOST_CATEGORICAL_FEATURES = 100
# Whole numbers with more different values than these are amounts, not names.
FEW_VALUES = 20
# A text that fewer rows share may be about one person.
LEAST_ROWS_A_TEXT = 5


def make_profile(
    signature: Signature,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    *,
    classes: Array | None = None,
    leave_out: Collection[str] = (),
) -> Profile:
    """Profiles n >= 1 rows [n, ...] and their answers; `classes` [n] is the class of each row, where scores tell it.

    Tensors named in `leave_out` are passed over. No more than 4,096 features of the inputs are looked at, and of the outputs: the
    first so many.
    """
    tensors: list[TensorProfile] = []
    numbers: dict[str, NumberColumns] = {}
    for side, specs, values in ((TensorSide.INPUT, signature.inputs, inputs), (TensorSide.OUTPUT, signature.outputs, outputs)):
        room = MOST_FEATURES
        for spec in specs:
            if spec.name in leave_out:
                continue
            tensor, columns = _tensor(side, spec, values[spec.name], room)
            room -= tensor.profiled
            tensors.append(tensor)
            if columns is not None:
                numbers[tensor.key] = columns
    outliers = calibrated(tensors, inputs)
    summary = ProfileSummary(
        rows=len(next(iter(inputs.values()))),
        tensors=tuple(tensors),
        classes=None if classes is None else count_categories(classes),
        left_out=tuple(spec.name for spec in (*signature.inputs, *signature.outputs) if spec.name in leave_out),
        held_out=0 if outliers is None else len(outliers.calibration),
    )
    return Profile(summary, numbers, outliers)


def _tensor(side: TensorSide, spec: TensorSpec, value: Array, room: int) -> tuple[TensorProfile, NumberColumns | None]:
    features = int(np.prod(value.shape[1:], dtype=np.int64))
    flat = value.reshape(len(value), features)
    kind = _kind(spec.datatype, flat)
    most = min(room, MOST_CATEGORICAL_FEATURES) if kind is FeatureKind.CATEGORIES else room
    flat = flat[:, :most]
    categories: tuple[CategoryCounts, ...] = ()
    if kind is FeatureKind.CATEGORIES:
        least = LEAST_ROWS_A_TEXT if spec.datatype is Datatype.BYTES else 1
        categories = tuple(count_categories(flat[:, feature], least=least) for feature in range(flat.shape[1]))
    tensor = TensorProfile(
        side=side,
        name=spec.name,
        datatype=spec.datatype,
        row_shape=tuple(value.shape[1:]),
        features=features,
        profiled=flat.shape[1],
        kind=kind,
        categories=categories,
    )
    return tensor, number_columns(flat, spec.datatype) if kind is FeatureKind.NUMBERS else None


def _kind(datatype: Datatype, flat: Array) -> FeatureKind:
    """Texts are categories; whole numbers where each of not too many features has few different values."""
    if datatype is Datatype.BYTES:
        return FeatureKind.CATEGORIES
    whole = NUMPY[datatype].kind in "iub" and datatype is not Datatype.BF16
    if not whole or flat.shape[1] > MOST_CATEGORICAL_FEATURES:
        return FeatureKind.NUMBERS
    few = all(len(np.unique(flat[:, feature])) <= FEW_VALUES for feature in range(flat.shape[1]))
    return FeatureKind.CATEGORIES if few else FeatureKind.NUMBERS
