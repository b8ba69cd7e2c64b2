"""Events as an Arrow table: a row for each row, columns named as the inputs are, so that a batch can score them again. Pure.

Beside the inputs there are `headrace_id`, `_row`, `_time`, `_way`, `_model`, `_version`, `_outcome`, `_error`, `_weight`,
`_request_id`, `_trace_id`, `_label_key`, and `headrace_output_NAME` for each output. A tensor of several axes is a flat list a
row, with `headrace_shape_NAME` where its axes may vary.
"""

from __future__ import annotations

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


def to_table(events: Sequence[PayloadEvent]) -> pa.Table:
    """The events' rows, in order. Columns that some events lack are null there."""
    return pa.concat_tables(map(_one, events), promote_options="default")


def _one(event: PayloadEvent) -> pa.Table:
    rows = event.rows
    columns: dict[str, pa.Array] = {PREFIX + name: pa.array([of(event)] * rows, pa.string()) for name, of in _TEXT.items()}
    columns[PREFIX + "time"] = pa.array([round(event.at_s * 1e6)] * rows, pa.timestamp("us", "UTC"))
    columns[PREFIX + "weight"] = pa.array([event.weight] * rows, pa.float64())
    columns[PREFIX + "row"] = pa.array(range(rows), pa.int32())
    columns[PREFIX + "version"] = pa.array(event.versions, pa.int32())
    columns[PREFIX + "label_key"] = pa.array(event.label_keys or [""] * rows, pa.string())
    columns |= _tensors(event.outputs or {}, OUTPUT)
    columns |= _tensors(event.inputs, "")
    return pa.table(columns)


def _tensors(tensors: Mapping[str, Array], prefix: str) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    for name, tensor in tensors.items():
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
