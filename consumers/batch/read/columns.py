"""From columns to tensors, without copying where Arrow's layout is already the tensor's."""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.batch.read.stored import fit_rows, may_lose, types_between
from consumers.batch.spec import Input, PatternOrder
from deployments.engines.datatypes import NUMPY, Array

ARROW: dict[Datatype, pa.DataType] = {
    Datatype.BOOL: pa.bool_(),
    Datatype.UINT8: pa.uint8(),
    Datatype.UINT16: pa.uint16(),
    Datatype.UINT32: pa.uint32(),
    Datatype.UINT64: pa.uint64(),
    Datatype.INT8: pa.int8(),
    Datatype.INT16: pa.int16(),
    Datatype.INT32: pa.int32(),
    Datatype.INT64: pa.int64(),
    Datatype.FP16: pa.float16(),
    Datatype.FP32: pa.float32(),
    Datatype.FP64: pa.float64(),
    Datatype.BYTES: pa.binary(),
}


@dataclass(frozen=True, slots=True)
class Binding:
    """Which columns make one input. Several `columns` are one feature each; one holds numbers, texts, lists or tensors.

    `casts` are the types that the values of each column go through first, mostly none.
    """

    tensor: TensorSpec
    columns: tuple[str, ...]
    casts: tuple[tuple[pa.DataType, ...], ...]
    low: float | None = None
    high: float | None = None

    @property
    def name(self) -> str:
        """The input's name."""
        return self.tensor.name

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row, without the batch axis."""
        return self.tensor.shape[1:]


def bind(schema: pa.Schema, signature: Signature, spec: Input, *, where: str) -> tuple[Binding, ...]:
    """Matches every input of the version with columns of `schema`.

    `where` is the dataset, for messages. Raises BadInput where an input has no column, a column is missing, or its type can't
    become the input's: each names what was asked for and what is there.
    """
    unknown = sorted(set(spec.columns) - {tensor.name for tensor in signature.inputs})
    if unknown:
        raise BadInput(
            f"the model has no input {', '.join(unknown)}; it has {', '.join(t.name for t in signature.inputs)}",
            where="spec.input.columns",
            remedy="name the model's inputs on the left and the dataset's columns on the right",
        )
    counts = Counter(schema.names)
    missing = [name for name in spec.passthrough if name not in counts]
    if missing:
        raise BadInput(
            f"spec.input.passthrough names {', '.join(missing)}; the columns are {_names(schema)}",
            where=where,
            remedy="correct spec.input.passthrough",
        )
    twice = [name for name in used_columns(signature, spec) if counts[name] > 1]
    if twice:
        raise BadInput(f"there are several columns {', '.join(twice)}", where=where, remedy="give each a name of its own")
    return tuple(_bind_one(schema, tensor, spec, where=where) for tensor in signature.inputs)


def expanded(spec: Input, names: Sequence[str]) -> Input:
    """With the columns that its patterns name, of these. Raises BadInput where there is none, or no order is declared."""
    patterns = {
        key: named for key, named in spec.columns.items() if isinstance(named, str) and "*" in named and named not in names
    }
    if not patterns:
        return spec
    if spec.pattern_order is None:
        raise BadInput(
            f"columns {', '.join(patterns.values())} are named by a pattern, and their order is not declared",
            where="spec.input.columns",
            remedy="say spec.input.pattern_order: file, name or number",
        )
    found: dict[str, tuple[str, ...]] = {}
    for key, pattern in patterns.items():
        matching = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            raise BadInput(f"no column is like {pattern}", where="spec.input.columns", remedy="correct the pattern")
        if spec.pattern_order is not PatternOrder.FILE:
            matching.sort(key=_by_number if spec.pattern_order is PatternOrder.NUMBER else None)
        found[key] = tuple(matching)
    return spec.model_copy(update={"columns": {**spec.columns, **found}})


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def used_columns(signature: Signature, spec: Input) -> tuple[str, ...]:
    """The names of the columns that inputs and `passthrough` ask for, each once."""
    named = [spec.columns.get(tensor.name, tensor.name) for tensor in signature.inputs]
    features = [name for names in named for name in ((names,) if isinstance(names, str) else names)]
    return tuple(dict.fromkeys([*features, *spec.passthrough]))


def _bind_one(schema: pa.Schema, tensor: TensorSpec, spec: Input, *, where: str) -> Binding:
    named = spec.columns.get(tensor.name, tensor.name)
    columns = (named,) if isinstance(named, str) else named
    missing = sorted(set(columns) - set(schema.names), key=columns.index)
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise BadInput(
            f"input {tensor.name} needs column {shown}, which is not there; the columns are {_names(schema)}",
            where=where,
            remedy=f"map it in spec.input.columns, e.g. {tensor.name}: COLUMN",
        )
    row_shape = tensor.shape[1:]
    if isinstance(named, tuple) and row_shape != (len(columns),) and row_shape != (-1,):
        raise BadInput(
            f"input {tensor.name} has shape {list(tensor.shape)}, and {len(columns)} columns can't make a row of it",
            where="spec.input.columns",
            remedy="give one column a feature, or one list column",
        )
    casts = tuple(types_between(schema.field(name).type, tensor.datatype) for name in columns)
    for name, types in zip(columns, casts, strict=True):
        column_type = schema.field(name).type
        sizes, value_type = _layout(types[-1] if types else column_type)
        if not isinstance(named, tuple):
            _check_sizes(name, column_type, sizes, tensor, where=where)
        elif sizes:
            raise BadInput(f"column {name} is {column_type}; a feature is one number", where=where, remedy="map a plain column")
        _check_type(name, value_type, tensor, narrow=spec.narrow, where=where)
        if may_lose(column_type, tensor.datatype) and not spec.narrow:
            raise _narrowing(name, column_type, tensor, where=where)
    low, high = spec.ranges.get(tensor.name, (None, None))
    return Binding(tensor, columns, casts, low, high)


def _layout(column_type: pa.DataType) -> tuple[tuple[int, ...], pa.DataType]:
    """The axes below a row (-1 where lists may differ in length) and the type of the values in them."""
    if isinstance(column_type, pa.FixedShapeTensorType):
        return tuple(column_type.shape), column_type.value_type
    if pa.types.is_fixed_size_list(column_type):
        below, value_type = _layout(column_type.value_type)
        return (column_type.list_size, *below), value_type
    if pa.types.is_list(column_type) or pa.types.is_large_list(column_type):
        below, value_type = _layout(column_type.value_type)
        return (-1, *below), value_type
    if pa.types.is_dictionary(column_type):
        return (), column_type.value_type
    return (), column_type


def _check_sizes(name: str, column_type: pa.DataType, sizes: tuple[int, ...], tensor: TensorSpec, *, where: str) -> None:
    row_shape = tensor.shape[1:]
    if not sizes:
        if math.prod(abs(axis) for axis in row_shape) == 1:
            return
        raise BadInput(
            f"column {name} is {column_type}, one value a row; input {tensor.name} has shape {list(tensor.shape)}",
            where=where,
            remedy="map a list column, or one column a feature",
        )
    if -1 not in sizes and -1 not in row_shape and math.prod(sizes) != math.prod(row_shape):
        raise BadInput(
            f"column {name} is {column_type}; input {tensor.name} has shape {list(tensor.shape)}",
            where=where,
            remedy="map a column of the same size",
        )
    if -1 in row_shape and (-1 in sizes or len(sizes) != len(row_shape)):
        raise BadInput(
            f"input {tensor.name} has the shape {list(tensor.shape)}, so {name} ({column_type}) must have a fixed size",
            where=where,
            remedy="store it as a fixed-size list or a fixed-shape tensor",
        )


def _check_type(name: str, value_type: pa.DataType, tensor: TensorSpec, *, narrow: bool, where: str) -> None:
    if tensor.datatype is Datatype.BYTES:
        texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
        if any(is_text(value_type) for is_text in texts):
            return
    elif tensor.datatype in ARROW and _is_number(value_type):
        here, wanted = value_type.to_pandas_dtype(), NUMPY[tensor.datatype]
        if np.can_cast(here, wanted, "safe") or (narrow and np.can_cast(here, wanted, "unsafe")):
            return
        if np.dtype(here).kind in "iuf" and wanted.kind in "iuf":
            raise _narrowing(name, value_type, tensor, where=where)
    raise BadInput(
        f"column {name} is {value_type}, and input {tensor.name} is {tensor.datatype}", where=where, remedy="map another column"
    )


def _narrowing(name: str, kind: pa.DataType, tensor: TensorSpec, *, where: str) -> BadInput:
    return BadInput(
        f"column {name} is {kind} and input {tensor.name} is {tensor.datatype}: that may lose precision",
        where=where,
        remedy="say spec.input.narrow: true to allow it",
    )


def _is_number(value_type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(value_type) or pa.types.is_floating(value_type) or pa.types.is_boolean(value_type))


def _names(schema: pa.Schema) -> str:
    names = list(schema.names)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


@dataclass(slots=True)
class Rows:
    """One batch as tensors. `good` are the indices of its rows that are in them (None: all), `bad` the others' reasons."""

    tensors: dict[str, Array]
    good: npt.NDArray[np.int64] | None
    bad: dict[int, str]


def to_tensors(batch: pa.RecordBatch, bindings: Sequence[Binding], *, refuse_nan: bool) -> Rows:
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
    return Rows(
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
        if column.null_count and not (missing and _is_number(column.type)):
            _note(bad, pc.is_null(column).to_numpy(zero_copy_only=False), f"column {name} is null")
        _find_malformed_lists(name, column, binding.row_shape, bad, missing=missing)


def _find_malformed_lists(name: str, column: pa.Array, row_shape: tuple[int, ...], bad: dict[int, str], *, missing: bool) -> None:
    owners: npt.NDArray[np.int64] | None = None  # the row of each list, once below the first level
    if isinstance(column.type, pa.FixedShapeTensorType):
        column = column.storage
    axes = list(row_shape)
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        if not pa.types.is_fixed_size_list(column.type):
            wanted = math.prod(axes) if not _is_nested(column.type) else axes[0]
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
            if values.null_count and not (missing and _is_number(values.type)):
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
        outside = np.less(tensor, limits.min) | np.greater(tensor, limits.max)
        return np.asarray(outside | (np.trunc(tensor) != tensor) if tensor.dtype.kind == "f" else outside)


def _any(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(mask.reshape(len(mask), -1).any(axis=1))


def _convert(tensor: Array, datatype: Datatype) -> Array:
    wanted = NUMPY[datatype]
    if tensor.dtype != wanted:
        tensor = tensor.astype(wanted)
    return np.ascontiguousarray(tensor)
