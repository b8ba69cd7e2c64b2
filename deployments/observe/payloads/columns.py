"""Events as an Arrow table: a row for each row, columns named as the inputs are, so that a batch can score them again. Pure.

Beside the inputs there are `headrace_id`, `_row`, `_time`, `_way`, `_model`, `_version`, `_outcome`, `_error`, `_weight`,
`_request_id`, `_trace_id`, `_label_key`, and `headrace_output_NAME` for each output. A tensor of several axes is a flat list a
row, with `headrace_shape_NAME` where its axes may vary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from deployments.engines.datatypes import Array
from deployments.observe.payloads.event import PayloadEvent

PREFIX = "headrace_"
OUTPUT = PREFIX + "output_"
SHAPE = PREFIX + "shape_"

_TEXT: dict[str, Callable[[PayloadEvent], str]] = {
    "id": lambda event: event.id,
    "way": lambda event: event.way.value,
    "model": lambda event: event.model,
    "outcome": lambda event: event.outcome.value,
    "error": lambda event: event.error,
    "request_id": lambda event: event.request_id,
    "trace_id": lambda event: event.trace_id,
}
# The names of tensors with what their rows are: events of one form are one table.
_Form = tuple[tuple[str, str, tuple[int, ...]], ...]


def to_table(events: Sequence[PayloadEvent]) -> pa.Table:
    """The events' rows, in order. Columns that some events lack are null there."""
    alike = [list(some) for _, some in itertools.groupby(events, _forms_of)]
    return pa.concat_tables(map(_one, alike), promote_options="default")


def _forms_of(event: PayloadEvent) -> tuple[_Form, _Form]:
    return _form(event.inputs), _form(event.outputs or {})


def _form(tensors: Mapping[str, Array]) -> _Form:
    return tuple((name, tensor.dtype.str, tensor.shape[1:]) for name, tensor in tensors.items())


def _one(events: Sequence[PayloadEvent]) -> pa.Table:
    """Of events of one form: an array a column, however many rows."""
    rows = np.array([event.rows for event in events])

    def column(value: Callable[[PayloadEvent], object], kind: pa.DataType) -> pa.Array:
        each = pa.array([value(event) for event in events], kind)
        return each if rows.max() == rows.min() == 1 else each.take(pa.array(np.repeat(np.arange(len(rows)), rows)))

    columns: dict[str, pa.Array] = {PREFIX + name: column(of, pa.string()) for name, of in _TEXT.items()}
    columns[PREFIX + "time"] = column(lambda event: round(event.at_s * 1e6), pa.timestamp("us", "UTC"))
    columns[PREFIX + "weight"] = column(lambda event: event.weight, pa.float64())
    columns[PREFIX + "row"] = pa.array(np.concatenate([np.arange(count) for count in rows]), pa.int32())
    columns[PREFIX + "version"] = pa.array(np.concatenate([event.versions for event in events]), pa.int32())
    label_keys = [key for event in events for key in event.label_keys or [""] * event.rows]
    columns[PREFIX + "label_key"] = pa.array(label_keys, pa.string())
    columns |= _tensors([event.outputs or {} for event in events], OUTPUT)
    columns |= _tensors([event.inputs for event in events], "")
    return pa.table(columns)


def _tensors(several: Sequence[Mapping[str, Array]], prefix: str) -> dict[str, pa.Array]:
    """The columns of tensors of one form, one mapping an event."""
    columns: dict[str, pa.Array] = {}
    for name in several[0]:
        tensor = np.concatenate([tensors[name] for tensors in several])
        columns[prefix + name] = column_of(tensor)
        if tensor.ndim > 2:
            shape = np.tile(np.array(tensor.shape[1:], np.int64), (len(tensor), 1))
            columns[SHAPE + prefix.removeprefix(PREFIX) + name] = column_of(shape)
    return columns


def column_of(tensor: Array) -> pa.Array:
    """A tensor [n, ...] as n values, or as n lists of its values in their order."""
    kind = pa.binary() if tensor.dtype == np.object_ else pa.from_numpy_dtype(tensor.dtype)
    values = pa.array(np.ascontiguousarray(tensor).reshape(-1), kind)
    if tensor.ndim == 1:
        return values
    size = tensor[:1].size if len(tensor) else 0
    return pa.ListArray.from_arrays(pa.array(np.arange(len(tensor) + 1, dtype=np.int32) * size), values)
