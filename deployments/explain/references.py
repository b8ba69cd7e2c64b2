"""Which rows a row is compared with: the caller's baseline, or the background rows that the version's build kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cluster.errors import BadInput
from cluster.signature import Signature, TensorSpec
from deployments.engines.datatypes import NUMPY, Array
from deployments.explain.features import RowShapes
from deployments.explain.form import Background


def check_rows(signature: Signature, rows: Mapping[str, Array]) -> int:
    """How many rows there are. Raises BadInput unless each input of the signature is there, with its datatype and shape."""
    counts = set()
    for spec in signature.inputs:
        value = rows.get(spec.name)
        if value is None:
            raise BadInput("is missing", where=f"input {spec.name}", remedy="give every input of the version")
        if value.dtype != NUMPY[spec.datatype] or not _fits(value.shape, spec):
            raise BadInput(
                f"is {value.dtype} {list(value.shape)}",
                where=f"input {spec.name}",
                remedy=f"give {spec.datatype} of shape {list(spec.shape)}",
            )
        counts.add(len(value))
    if len(counts) != 1:
        raise BadInput("the inputs have different numbers of rows", remedy="give each the same number")
    return counts.pop()


def reference_rows(
    signature: Signature, shapes: RowShapes, background: Background | None, baseline: Mapping[str, Array] | None
) -> dict[str, Array]:
    """By input the b >= 1 rows to compare with. Raises BadInput where there are none, or one has another shape than the rows."""
    given = {
        spec.name: _as_row(baseline[spec.name], spec, shapes[spec.name])
        for spec in signature.inputs
        if baseline and spec.name in baseline
    }
    missing = [spec.name for spec in signature.inputs if spec.name not in given]
    if not missing:
        return {name: value[None] for name, value in given.items()}
    if background is None or not background.count:
        why = background.why_none if background else ""
        raise BadInput(
            f"the version keeps no background rows to compare with{': ' * bool(why)}{why}",
            where="explain.baseline",
            remedy=f"give a baseline for {', '.join(missing)}, or build the version again",
        )
    for name in missing:
        if tuple(background.rows[name].shape[1:]) != tuple(shapes[name]):
            raise BadInput(
                f"a row has shape {list(shapes[name])}, and the background rows {list(background.rows[name].shape[1:])}",
                where=f"explain.baseline.{name}",
                remedy="give a baseline in the row's shape",
            )
    count = background.count
    return {
        spec.name: np.repeat(given[spec.name][None], count, axis=0) if spec.name in given else background.rows[spec.name]
        for spec in signature.inputs
    }


def _as_row(value: Array, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """The baseline of one input in the row's shape; one value stands for all of them."""
    where = f"explain.baseline.{spec.name}"
    if value.dtype != NUMPY[spec.datatype]:
        raise BadInput(f"is {value.dtype}", where=where, remedy=f"give {spec.datatype}, as the input has")
    if value.dtype.kind == "f" and np.isnan(value).any():
        raise BadInput("holds NaN", where=where, remedy="give numbers: what is missing is no baseline")
    if value.shape == shape:
        return value
    if value.size == 1:
        return np.full(shape, value.ravel()[0], dtype=value.dtype)
    raise BadInput(
        f"has shape {list(value.shape)}, a row has {list(shape)}",
        where=where,
        remedy="give it in a row's shape, or one value for all",
    )


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return len(shape) == len(spec.shape) and all(want in (-1, have) for have, want in zip(shape, spec.shape, strict=True))
