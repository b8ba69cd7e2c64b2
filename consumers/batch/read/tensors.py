"""From columns to tensors, without copying where Arrow's layout is already the tensor's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cluster.signature import Datatype
from consumers.batch.read.columns import ARROW, Binding, is_number
from consumers.batch.read.stored import fit_rows
from deployments.engines.datatypes import NUMPY, Array


@dataclass(slots=True)
class TensorRows:
    """One batch as tensors. `good` are the indices of its rows that are in them (None: all), `bad` the others' reasons."""

    tensors: dict[str, Array]
    good: npt.NDArray[np.int64] | None
    bad: dict[int, str]


def to_tensors(batch: pa.RecordBatch, bindings: Sequence[Binding], *, refuse_nan: bool) -> TensorRows:
    """Rows that can't be scored are left out and named with their reason; the others keep their order. Unless `refuse_nan`, a
    null where a floating-point input has a number is NaN."""
    bad: dict[int, str] = {}
    fit = [_fit(batch, binding, bad) for binding in bindings]
    for own, binding in zip(fit, bindings, strict=True):
        missing = not refuse_nan and NUMPY[binding.tensor.datatype].kind == "f"
        _find_malformed(own, binding, bad, missing=missing)
    good = _others(batch.num_rows, bad)
    whole = fit if good is None else [own.take(pa.array(good)) for own in fit]
    tensors = {binding.name: _tensor(own, binding) for own, binding in zip(whole, bindings, strict=True)}
    worse: dict[int, str] = {}
    for binding in bindings:
        _find_out_of_bounds(tensors[binding.name], binding, worse, refuse_nan=refuse_nan)
    if worse:
        keep = _others(batch.num_rows if good is None else len(good), worse)
        tensors = {name: tensor[keep] for name, tensor in tensors.items()}
        bad.update({int(row if good is None else good[row]): reason for row, reason in worse.items()})
        good = keep if good is None else good[keep]
    narrowed = {binding.name: tensors[binding.name] for binding in bindings}
    return TensorRows(
        {name: _convert(tensor, bindings[i].tensor.datatype) for i, (name, tensor) in enumerate(narrowed.items())}, good, bad
    )


def _others(rows: int, bad: Mapping[int, str]) -> npt.NDArray[np.int64] | None:
    if not bad:
        return None
    mask = np.ones(rows, dtype=np.bool_)
    mask[list(bad)] = False
    return np.flatnonzero(mask)


def _fit(batch: pa.RecordBatch, binding: Binding, bad: dict[int, str]) -> pa.RecordBatch:
    """The input's columns, as values that it takes."""
    arrays = []
    for name, types in zip(binding.columns, binding.casts, strict=True):
        column, unfit = fit_rows(batch.column(name), types) if types else (batch.column(name), [])
        for row in unfit:
            bad.setdefault(row, f"column {name} holds a value that {binding.tensor.datatype} can't hold")
        arrays.append(column)
    return pa.RecordBatch.from_arrays(arrays, list(binding.columns))


def _find_malformed(batch: pa.RecordBatch, binding: Binding, bad: dict[int, str], *, missing: bool) -> None:
    """Nulls, and lists of another length than the input's. Where a value may be `missing`, only a list may not."""
    for name in binding.columns:
        column = batch.column(name)
        if column.null_count and not (missing and is_number(column.type)):
            _note(bad, pc.is_null(column).to_numpy(zero_copy_only=False), f"column {name} is null")
        _find_malformed_lists(name, column, binding.row_shape, bad, missing=missing)


def _find_malformed_lists(name: str, column: pa.Array, row_shape: tuple[int, ...], bad: dict[int, str], *, missing: bool) -> None:
    owners: npt.NDArray[np.int64] | None = None  # the row of each list, once below the first level
    if isinstance(column.type, pa.FixedShapeTensorType):
        column = column.storage
    axes = list(row_shape)
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        if not pa.types.is_fixed_size_list(column.type):
            # What is nested deeper than the input is has one list in each.
            wanted = math.prod(axes) if not _is_nested(column.type) else axes[0] if axes else 1
            lengths = pc.list_value_length(column)
            wrong = pc.fill_null(pc.not_equal(lengths, wanted), False).to_numpy(zero_copy_only=False)
            if wrong.any():
                found = lengths.to_numpy(zero_copy_only=False)
                for at in np.flatnonzero(wrong):
                    row = int(at if owners is None else owners[at])
                    bad.setdefault(row, f"column {name} has {int(found[at])} values, not {wanted}")
        values = column.flatten()  # leaves out what null lists hold, which fixed-size lists keep room for
        if values.null_count or _is_nested(column.type):
            parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
            owners = parents if owners is None else owners[parents]
            if values.null_count and not (missing and is_number(values.type)):
                _note(bad, pc.is_null(values).to_numpy(zero_copy_only=False), f"column {name} holds a null", owners)
        column, axes = values, axes[1:]


def _is_nested(column_type: pa.DataType) -> bool:
    inner = column_type.value_type
    return bool(pa.types.is_list(inner) or pa.types.is_large_list(inner) or pa.types.is_fixed_size_list(inner))


def _note(bad: dict[int, str], mask: npt.NDArray[np.bool_], reason: str, owners: npt.NDArray[np.int64] | None = None) -> None:
    for at in np.flatnonzero(mask):
        bad.setdefault(int(at if owners is None else owners[at]), reason)


def _tensor(batch: pa.RecordBatch, binding: Binding) -> Array:
    """The input's values, in the column's own type; every row is known to be whole."""
    if len(binding.columns) > 1:
        return _matrix([batch.column(name) for name in binding.columns], binding)
    column = batch.column(binding.columns[0])
    if isinstance(column.type, pa.FixedShapeTensorType):
        if not column.storage.flatten().null_count:
            return _shaped(column.to_numpy_ndarray(), batch.num_rows, binding)
        column = column.storage
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return _shaped(_plain(column, binding), batch.num_rows, binding)


def _shaped(values: Array, rows: int, binding: Binding) -> Array:
    shape = binding.row_shape if -1 not in binding.row_shape else tuple(abs(axis) for axis in binding.row_shape)
    if -1 in binding.row_shape:
        below = values.shape[1:] if values.ndim > 1 else (values.size // max(rows, 1),)
        shape = below if math.prod(shape) != math.prod(below) else shape
    return values.reshape((rows, *shape))


def _plain(column: pa.Array, binding: Binding) -> Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if binding.tensor.datatype is Datatype.BYTES and not pa.types.is_binary(column.type):
        column = column.cast(pa.binary())
    values: Array = _with_room(column).to_numpy(zero_copy_only=False)
    return values


def _with_room(column: pa.Array) -> pa.Array:
    """Where values are missing, which is allowed by now, as numbers that know NaN."""
    return column.cast(pa.float64(), safe=False) if column.null_count and not pa.types.is_floating(column.type) else column


def _matrix(columns: Sequence[pa.Array], binding: Binding) -> Array:
    if binding.tensor.datatype is Datatype.BYTES or any(pa.types.is_boolean(column.type) for column in columns):
        return np.stack([_plain(column, binding) for column in columns], axis=1)
    wanted = ARROW[binding.tensor.datatype]
    safe = all(np.can_cast(column.type.to_pandas_dtype(), NUMPY[binding.tensor.datatype], "safe") for column in columns)
    parts = [column.cast(wanted) if safe and column.type != wanted else column for column in columns]
    table = pa.RecordBatch.from_arrays(list(map(_with_room, parts)), [str(place) for place in range(len(parts))])
    matrix: Array = table.to_tensor(null_to_nan=True, row_major=True).to_numpy()
    return matrix


def _find_out_of_bounds(tensor: Array, binding: Binding, bad: dict[int, str], *, refuse_nan: bool) -> None:
    """NaN, values outside the declared range, and values that the input's datatype can't hold."""
    if tensor.dtype == np.object_ or tensor.dtype == np.bool_ or tensor.size == 0:
        return
    if refuse_nan and tensor.dtype.kind == "f":
        flat = tensor.reshape(-1)
        with np.errstate(invalid="ignore", over="ignore"):
            suspect = np.isnan(np.dot(flat, flat))  # squares never cancel out: NaN here is NaN there; one pass of BLAS
        if suspect:
            _note(bad, _any(np.isnan(tensor)), f"input {binding.name} holds NaN")
    if binding.low is not None and binding.high is not None:
        inside = np.greater_equal(tensor, binding.low) & np.less_equal(tensor, binding.high)
        if not inside.all():
            _note(bad, _any(~inside), f"input {binding.name} holds a value outside [{binding.low:g}, {binding.high:g}]")
    wanted = NUMPY[binding.tensor.datatype]
    if not np.can_cast(tensor.dtype, wanted, "safe"):
        _note(bad, _any(_unfit(tensor, wanted)), f"input {binding.name} holds a value that {binding.tensor.datatype} can't hold")


def _unfit(tensor: Array, wanted: np.dtype[np.generic]) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore", over="ignore"):
        if wanted.kind == "f":
            return np.asarray(np.isfinite(tensor) & ~np.isfinite(tensor.astype(wanted)))
        limits = np.iinfo(wanted.type)  # type: ignore[type-var]
        if tensor.dtype.kind == "f":  # which has no number for the largest, but for the one after it
            outside = np.less(tensor, float(limits.min)) | np.greater_equal(tensor, float(int(limits.max) + 1))
            return np.asarray(outside | (np.trunc(tensor) != tensor))
        return np.asarray(np.less(tensor, limits.min) | np.greater(tensor, limits.max))


def _any(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(mask.reshape(len(mask), -1).any(axis=1))


def _convert(tensor: Array, datatype: Datatype) -> Array:
    wanted = NUMPY[datatype]
    if tensor.dtype != wanted:
        tensor = tensor.astype(wanted)
    return np.ascontiguousarray(tensor)
