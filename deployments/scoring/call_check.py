"""Whether a call fits a signature: a whole-call error where a tensor is wrong, a mask where only rows are. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cluster.errors import BadInput
from cluster.signature import Signature, TensorSpec
from deployments.engines.datatypes import NUMPY, Array


def check_call(signature: Signature, tensors: Mapping[str, Array], *, where: str) -> int:
    """Returns the number of rows of a call whose tensors fit the signature; raises BadInput that names what does not."""
    names = [spec.name for spec in signature.inputs]
    unknown = sorted(set(tensors) - set(names))
    if unknown:
        raise BadInput(f"unknown input {unknown[0]!r}", where=where, remedy=f"its inputs are {', '.join(names)}")
    rows: int | None = None
    for spec in signature.inputs:
        tensor = tensors.get(spec.name)
        if tensor is None:
            raise BadInput(f"input {spec.name!r} is missing", where=where, remedy=f"its inputs are {', '.join(names)}")
        _check_tensor(spec, tensor, where)
        if rows is not None and len(tensor) != rows:
            raise BadInput(
                f"input {spec.name!r} has {len(tensor)} rows, others {rows}",
                where=where,
                remedy="send as many rows in each input",
            )
        rows = len(tensor)
    return rows or 0


def _check_tensor(spec: TensorSpec, tensor: Array, where: str) -> None:
    if tensor.dtype != NUMPY[spec.datatype]:
        raise BadInput(
            f"input {spec.name!r} is {tensor.dtype}, not {spec.datatype}", where=where, remedy=f"send it as {spec.datatype}"
        )
    fits = tensor.ndim == len(spec.shape) and all(want in (-1, have) for want, have in zip(spec.shape, tensor.shape, strict=True))
    if not fits:
        raise BadInput(
            f"input {spec.name!r} has shape {list(tensor.shape)}, not {list(spec.shape)}",
            where=where,
            remedy="-1 stands for any length; the first axis counts the rows",
        )


def nan_rows(tensors: Mapping[str, Array], rows: int) -> npt.NDArray[np.bool_] | None:
    """Which rows hold a NaN in any floating-point tensor, bool [rows]; None where none does."""
    found: npt.NDArray[np.bool_] | None = None
    for tensor in tensors.values():
        if tensor.dtype.kind != "f" or tensor.size == 0:
            continue
        # The least is NaN wherever an item is: one pass without a mask, or a wider copy, for the usual clean batch.
        if not np.isnan(np.minimum.reduce(tensor, axis=None)):
            continue
        bad = np.asarray(np.isnan(tensor).reshape(rows, -1).any(axis=1), dtype=np.bool_)
        if bad.any():
            found = bad if found is None else np.logical_or(found, bad)
    return found
