"""From the engine's outputs to the columns of the output."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import BadInput
from cluster.signature import Signature
from consumers.batch.spec import Output, OutputColumn, Source
from deployments.datatypes import Array

VERSION_COLUMN = "model_version"
MOST_PARTITIONS = 1000


def output_columns(output: Output, signature: Signature) -> dict[str, OutputColumn]:
    """The columns to write: those declared, or every output and the version. Raises BadInput where one can't be made."""
    declared = output.columns or {
        **{spec.name: OutputColumn(source=Source.OUTPUT, output=spec.name) for spec in signature.outputs},
        VERSION_COLUMN: OutputColumn(source=Source.VERSION),
    }
    for name, column in declared.items():
        if column.source in (Source.VERSION, Source.MODEL):
            continue
        spec = signature.output(column.output)
        if spec is None:
            raise BadInput(
                f"the model has no output {column.output!r}; it has {', '.join(o.name for o in signature.outputs)}",
                where=f"spec.output.columns.{name}",
                remedy="name an output, argmax(OUTPUT), max(OUTPUT), version() or model()",
            )
        if column.source is not Source.OUTPUT and len(spec.shape) < 2:
            raise BadInput(
                f"{column.source}({column.output}) needs an output with a second axis; its shape is {list(spec.shape)}",
                where=f"spec.output.columns.{name}",
                remedy="write the output as it is",
            )
    return declared


def to_columns(
    columns: Mapping[str, OutputColumn], outputs: Mapping[str, Array], rows: int, *, model: str, version: int
) -> dict[str, pa.Array]:
    """One Arrow array of `rows` values a column."""
    arrays: dict[str, pa.Array] = {}
    for name, column in columns.items():
        match column.source:
            case Source.VERSION:
                arrays[name] = pa.array(np.full(rows, version, dtype=np.int32))
            case Source.MODEL:
                arrays[name] = pa.repeat(pa.scalar(model), rows)
            case Source.ARGMAX:
                arrays[name] = _arrow(outputs[column.output].argmax(axis=-1).astype(np.int32))
            case Source.MAX:
                arrays[name] = _arrow(outputs[column.output].max(axis=-1))
            case Source.OUTPUT:
                arrays[name] = _arrow(outputs[column.output])
    return arrays


def by_partition(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """The table cut by the values of these columns, which become the folder (`k=v/`) and leave the table.

    Raises BadInput where there are too many values for files of a sensible size.
    """
    if not columns:
        yield "", table
        return
    keys = table.select(columns).group_by(columns, use_threads=False).aggregate([])
    if keys.num_rows > MOST_PARTITIONS:
        raise BadInput(
            f"{', '.join(columns)} have {keys.num_rows:,} different values in one unit",
            where="output.partition_by",
            remedy=f"partition by columns with fewer values than {MOST_PARTITIONS:,}",
        )
    rest = table.drop_columns(list(columns))
    for key in keys.to_pylist():
        masks = [
            pc.is_null(table[name]) if value is None else pc.equal(table[name], pa.scalar(value, table.schema.field(name).type))
            for name, value in key.items()
        ]
        mask = functools.reduce(lambda one, other: pc.and_(pc.fill_null(one, False), pc.fill_null(other, False)), masks)
        folder = "/".join(f"{quote(name)}={_segment(value)}" for name, value in key.items())
        yield f"{folder}/", rest.filter(mask)


def _segment(value: object) -> str:
    return "__HIVE_DEFAULT_PARTITION__" if value is None else quote(str(value), safe=" :+,@")


def _arrow(values: Array) -> pa.Array:
    """One value a row, or a fixed-size list where a row holds several."""
    width = math.prod(values.shape[1:])
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=pa.binary() if values.dtype == np.object_ else None)
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
