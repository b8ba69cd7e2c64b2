"""From the engine's outputs to the columns of the output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature
from consumers.batch.spec import EXPLAINED, BatchOutput, ColumnSource, OutputColumn
from consumers.batch.write.records import Pinned
from deployments.artifacts.profile import fetch_profile
from deployments.drift.row_outliers import cannot_tell
from deployments.engines.datatypes import Array
from deployments.profiles.outliers import OutlierScore, outlier_score

VERSION_COLUMN = "model_version"


def output_columns(output: BatchOutput, signature: Signature) -> dict[str, OutputColumn]:
    """The columns to write: those declared, or every output and the version. Raises BadInput where one can't be made."""
    declared = output.columns or {
        **{spec.name: OutputColumn(source=ColumnSource.OUTPUT, output=spec.name) for spec in signature.outputs},
        VERSION_COLUMN: OutputColumn(source=ColumnSource.VERSION),
    }
    for name, column in declared.items():
        if column.source in (ColumnSource.VERSION, ColumnSource.MODEL, ColumnSource.OUTLIER):
            continue
        spec = signature.output(column.output)
        if spec is None:
            raise BadInput(
                f"the model has no output {column.output!r}; it has {', '.join(o.name for o in signature.outputs)}",
                where=f"spec.output.columns.{name}",
                remedy="name an output, argmax(OUTPUT), max(OUTPUT), version(), model() or outlier()",
            )
        if column.source is not ColumnSource.OUTPUT and spec.datatype is Datatype.BYTES:
            raise BadInput(
                f"{column.source}({column.output}) needs numbers, and {column.output} is text",
                where=f"spec.output.columns.{name}",
                remedy="write the output as it is",
            )
        if column.source is not ColumnSource.OUTPUT and len(spec.shape) < 2:
            raise BadInput(
                f"{column.source}({column.output}) needs an output with a second axis; its shape is {list(spec.shape)}",
                where=f"spec.output.columns.{name}",
                remedy="write the output as it is",
            )
    return declared


def outliers_of(columns: Mapping[str, OutputColumn], pinned: Pinned) -> OutlierScore | None:
    """What tells outliers, where a column holds them. Raises BadInput where the version's profile does not say what one is,
    BadArtifact and Unreachable."""
    if all(column.source is not ColumnSource.OUTLIER for column in columns.values()):
        return None
    profile = fetch_profile(pinned.artifact_uri, pinned.digest)
    found = outlier_score(profile) if profile is not None else None
    if found is None:
        raise cannot_tell(pinned.model, pinned.version)
    return found


def to_columns(
    columns: Mapping[str, OutputColumn],
    outputs: Mapping[str, Array],
    rows: int,
    *,
    model: str,
    version: int,
    outliers: Array | None = None,
) -> dict[str, pa.Array]:
    """One Arrow array of `rows` values a column; `outliers` [rows] are p-values, where a column holds them."""
    arrays: dict[str, pa.Array] = {}
    for name, column in columns.items():
        match column.source:
            case ColumnSource.VERSION:
                arrays[name] = pa.array(np.full(rows, version, dtype=np.int32))
            case ColumnSource.MODEL:
                arrays[name] = pa.repeat(pa.scalar(model), rows)
            case ColumnSource.OUTLIER:
                values = outliers if outliers is not None else np.full(rows, np.nan)
                arrays[name] = pa.array(values, pa.float64(), from_pandas=True)  # NaN, which can't be compared, is null
            case ColumnSource.ARGMAX:
                arrays[name] = _arrow(outputs[column.output].argmax(axis=-1).astype(np.int32))
            case ColumnSource.MAX:
                arrays[name] = _arrow(outputs[column.output].max(axis=-1))
            case ColumnSource.OUTPUT:
                arrays[name] = _arrow(outputs[column.output])
    return arrays


def explained_columns(
    names: Sequence[Sequence[str] | None], values: Sequence[Sequence[float] | None], errors: Sequence[float | None]
) -> dict[str, pa.Array]:
    """What rows' explanations come to: of each row the strongest features, what they add, and the error of the whole."""
    types = (pa.list_(pa.string()), pa.list_(pa.float64()), pa.float64())
    return dict(zip(EXPLAINED, map(pa.array, (names, values, errors), types), strict=True))


def _arrow(values: Array) -> pa.Array:
    """One value a row, or a fixed-size list where a row holds several. Text is strings: engines give UTF-8 only."""
    width = math.prod(values.shape[1:])
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=pa.string() if values.dtype == np.object_ else None)
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
