"""The user's rows, from `.npz` or Parquet, checked before anything is computed with them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import BadInput, NotFound
from cluster.signature import Datatype, TensorSpec
from deployments.engines.datatypes import NUMPY, Array

PARITY_ROWS = 512
UNSEEN_ROWS = 64


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """n rows: `inputs` by name with the batch axis first; `labels` [n], or None."""

    inputs: dict[str, Array]
    labels: Array | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, indices: slice | Array) -> LabelledRows:
        """Some of the rows."""
        return LabelledRows(
            {name: value[indices] for name, value in self.inputs.items()}, None if self.labels is None else self.labels[indices]
        )


def read_rows(file: Path, inputs: Sequence[TensorSpec], *, label: str | None = None, limit: int = 10_000) -> LabelledRows:
    """Reads at most `limit` rows. Raises NotFound, or BadInput that names the file and the column."""
    if not file.exists():
        raise NotFound("no such file", where=str(file), remedy="check the path: it is relative to the document")
    wanted = [spec.name for spec in inputs] + ([label] if label else [])
    columns = _read_npz(file, wanted) if file.suffix == ".npz" else _read_parquet(file, wanted)
    values = {spec.name: _fit(columns[spec.name][:limit], spec, file) for spec in inputs}
    labels = columns[label][:limit] if label else None
    lengths = {len(value) for value in values.values()} | ({len(labels)} if labels is not None else set())
    if len(lengths) != 1 or lengths == {0}:
        raise BadInput(
            "the columns have different lengths" if lengths != {0} else "there are no rows",
            where=str(file),
            remedy="write it again",
        )
    if labels is not None:
        labels = _check_labels(labels, file, str(label))
    return LabelledRows(values, labels)


def rows_to_check(evaluate: Mapping[str, Any] | None, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The rows that a source and its import are compared on: the first of `evaluate`'s {data, rows}, or random ones."""
    if evaluate is None:
        return random_rows(inputs, UNSEEN_ROWS).inputs
    return read_rows(Path(evaluate["data"]), inputs, limit=min(PARITY_ROWS, evaluate["rows"])).inputs


def random_rows(inputs: Sequence[TensorSpec], count: int, seed: int = 0) -> LabelledRows:
    """Rows to compare with where the user gave none: normal for floats, small counts for integers. Free axes are 4 long."""
    random = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    for spec in inputs:
        shape = (count, *(4 if axis < 0 else axis for axis in spec.shape[1:]))
        dtype = NUMPY[spec.datatype]
        if spec.datatype is Datatype.BYTES:
            raise BadInput(f"input {spec.name} is BYTES", where="evaluate", remedy="name a data file with rows to check it with")
        drawn = random.standard_normal(shape) if np.issubdtype(dtype, np.floating) else random.integers(0, 2, shape)
        values[spec.name] = drawn.astype(dtype)
    return LabelledRows(values, None)


def _read_npz(file: Path, wanted: Sequence[str]) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            _require(archive.files, wanted, file)
            return {name: archive[name] for name in wanted}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(
            f"can't be read as .npz: {error}", where=str(file), remedy="write it with numpy.savez, without objects"
        ) from error


def _read_parquet(file: Path, wanted: Sequence[str]) -> dict[str, Array]:
    try:
        _require(pq.read_schema(file).names, wanted, file)
        table = pq.read_table(file, columns=list(wanted))
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"can't be read as Parquet: {error}", where=str(file), remedy="use .parquet or .npz") from error
    return {name: _column(table.column(name).combine_chunks(), file, name) for name in wanted}


def _column(column: pa.Array, file: Path, name: str) -> Array:
    if column.null_count:
        raise BadInput(f"column {name} has {column.null_count} nulls", where=str(file), remedy="fill or drop them")
    shape = [len(column)]
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        inner = column.flatten()
        shape.append(len(inner) // max(1, len(column)))
        if shape[-1] * len(column) != len(inner):
            raise BadInput(f"the lists in column {name} differ in length", where=str(file), remedy="make them equally long")
        column = inner
    values: Array = column.to_numpy(zero_copy_only=False)
    return values.reshape([len(values) if len(shape) == 1 else shape[0], *shape[1:]])


def _require(found: Sequence[str], wanted: Sequence[str], file: Path) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise BadInput(
            f"has no column {', '.join(missing)}; it has {', '.join(found)}", where=str(file), remedy="rename one of them"
        )


def _fit(value: Array, spec: TensorSpec, file: Path) -> Array:
    """Brings a column to the input's shape and datatype where that changes no number's meaning."""
    where, dtype = f"{file} column {spec.name}", NUMPY[spec.datatype]
    wanted = spec.shape[1:]
    if tuple(value.shape[1:]) != wanted and all(axis > 0 for axis in wanted) and value.size == len(value) * int(np.prod(wanted)):
        value = value.reshape(len(value), *wanted)
    shape = value.shape[1:]
    if len(shape) != len(wanted) or any(want not in (-1, have) for want, have in zip(wanted, shape, strict=True)):
        raise BadInput(
            f"rows have shape {list(shape)}, the input has {list(wanted)}", where=where, remedy="give rows of that shape"
        )
    if np.issubdtype(value.dtype, np.floating):
        bad = np.flatnonzero(~np.isfinite(value).all(axis=tuple(range(1, value.ndim))))
        if bad.size:
            raise BadInput(
                f"{bad.size} rows hold NaN or infinity, the first is row {bad[0]}", where=where, remedy="fill or drop them"
            )
    if not np.can_cast(value.dtype, dtype, casting="same_kind"):
        raise BadInput(f"has datatype {value.dtype}, the input has {spec.datatype}", where=where, remedy="convert the column")
    return np.ascontiguousarray(value.astype(dtype, copy=False))


def _check_labels(labels: Array, file: Path, label: str) -> Array:
    flat = labels.reshape(len(labels)) if labels.size == len(labels) else labels
    where = f"{file} column {label}"
    if flat.ndim != 1 or not np.issubdtype(flat.dtype, np.number):
        raise BadInput(
            f"labels are {labels.dtype} of shape {list(labels.shape[1:])}", where=where, remedy="give one number a row"
        )
    if np.issubdtype(flat.dtype, np.floating) and not np.isfinite(flat).all():
        raise BadInput("labels hold NaN or infinity", where=where, remedy="fill or drop them")
    return flat


def check_classes(labels: Array, classes: int, where: str) -> None:
    """Raises BadInput unless every label is a whole number in 0..classes-1."""
    numbers = labels.astype(np.float64)
    wrong = np.flatnonzero((numbers != np.floor(numbers)) | (numbers < 0) | (numbers >= classes))
    if wrong.size:
        raise BadInput(
            f"{wrong.size} labels are not among the model's classes 0..{classes - 1}; row {wrong[0]} has {labels[wrong[0]]}",
            where=where,
            remedy="check the label column, or say task: regression",
        )
