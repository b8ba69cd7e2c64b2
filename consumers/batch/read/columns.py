"""Which columns make which input, and whether they can."""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.batch.read.stored import may_lose, types_between
from consumers.batch.spec import BatchInput, PatternOrder
from deployments.engines.datatypes import NUMPY

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


def bind(schema: pa.Schema, signature: Signature, spec: BatchInput, *, where: str) -> tuple[Binding, ...]:
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


def expanded(spec: BatchInput, names: Sequence[str]) -> BatchInput:
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


def used_columns(signature: Signature, spec: BatchInput) -> tuple[str, ...]:
    """The names of the columns that inputs and `passthrough` ask for, each once."""
    named = [spec.columns.get(tensor.name, tensor.name) for tensor in signature.inputs]
    features = [name for names in named for name in ((names,) if isinstance(names, str) else names)]
    return tuple(dict.fromkeys([*features, *spec.passthrough]))


def _bind_one(schema: pa.Schema, tensor: TensorSpec, spec: BatchInput, *, where: str) -> Binding:
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
    elif tensor.datatype in ARROW and is_number(value_type):
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


def is_number(value_type: pa.DataType) -> bool:
    """Whether its values are numbers, or true and false, which are numbers too."""
    return bool(pa.types.is_integer(value_type) or pa.types.is_floating(value_type) or pa.types.is_boolean(value_type))


def _names(schema: pa.Schema) -> str:
    names = list(schema.names)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
