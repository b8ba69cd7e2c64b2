"""The user's rows, from `.npz` or Parquet, checked before anything is computed with them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import BadInput, NotFound
from cluster.foreign import words_of
from cluster.signature import Datatype, TensorSpec
from deployments.builder.spec import InputSpec
from deployments.engines.answers import class_output, flat, score_output
from deployments.engines.datatypes import NUMPY, Array
from deployments.privacy.parquet import open_parquet

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


def read_rows(
    file: Path, inputs: Sequence[TensorSpec], *, label: str | None = None, limit: int = 10_000, refuse_nan: bool = True
) -> LabelledRows:
    """Reads at most `limit` rows. Unless `refuse_nan`, a null where a floating-point input has a number is NaN.

    Raises NotFound, or BadInput that names the file and the column.
    """
    if not file.exists():
        raise NotFound("no such file", where=str(file), remedy="check the path: it is relative to the document")
    wanted = [spec.name for spec in inputs] + ([label] if label else [])
    missing = set() if refuse_nan else {spec.name for spec in inputs if NUMPY[spec.datatype].kind == "f"}
    columns = _read_npz(file, wanted) if file.suffix == ".npz" else _read_parquet(file, wanted, missing)
    values = {spec.name: _fit(columns[spec.name][:limit], spec, file, spec.name in missing) for spec in inputs}
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


def read_inputs(job: Mapping[str, Any]) -> list[InputSpec]:
    """The document's inputs, as a worker gets them."""
    return [InputSpec.model_validate(item) for item in job["inputs"]]


def ranged(inputs: Sequence[TensorSpec], declared: Sequence[InputSpec]) -> list[TensorSpec]:
    """The inputs, each with the range that the document gives it."""
    spans = {spec.name: spec.range for spec in declared}
    return [InputSpec(name=one.name, datatype=one.datatype, shape=one.shape, range=spans.get(one.name)) for one in inputs]


def rows_to_check(evaluate: Mapping[str, Any] | None, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The rows that a source and its import are compared on: the first of `evaluate`'s {data, rows}, or random ones."""
    if evaluate is None:
        return random_rows(inputs, UNSEEN_ROWS).inputs
    limit = min(PARITY_ROWS, evaluate["rows"])
    return read_rows(Path(evaluate["data"]), inputs, limit=limit, refuse_nan=evaluate["refuse_nan"]).inputs


def random_rows(inputs: Sequence[TensorSpec], count: int, seed: int = 0) -> LabelledRows:
    """Trial rows, where the user gave none: from an input's range; else normal for floats, all that 8 bits hold, and 0 and 1 for
    larger whole numbers, which may be places in a table. Free axes are 4 long."""
    random = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    for spec in inputs:
        shape = (count, *(4 if axis < 0 else axis for axis in spec.shape[1:]))
        dtype = NUMPY[spec.datatype]
        if spec.datatype is Datatype.BYTES:
            raise BadInput(
                f"input {spec.name} is text, and there is none to try it on",
                where="evaluate",
                remedy="set evaluate.data to a file with some rows as the model gets them",
            )
        values[spec.name] = _drawn(random, dtype, shape, spec.range if isinstance(spec, InputSpec) else None)
    return LabelledRows(values, None)


def _drawn(random: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...], span: tuple[float, float] | None) -> Array:
    if np.issubdtype(dtype, np.floating):
        drawn = random.uniform(*span, shape) if span else random.standard_normal(shape)
        return drawn.astype(dtype)
    low, high = (int(span[0]), int(span[1])) if span else (0, 1)
    if span is None and dtype.itemsize == 1 and dtype != np.bool_:
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return random.integers(low, high, shape, endpoint=True).astype(dtype)


def _read_npz(file: Path, wanted: Sequence[str]) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            _require(archive.files, wanted, file)
            return {name: as_bytes(archive[name]) for name in wanted}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(
            f"can't be read as .npz: {_npz_words(error)}", where=str(file), remedy="write it with numpy.savez, without objects"
        ) from error


def _npz_words(error: Exception) -> str:
    return "it holds Object arrays, which may run code" if "Object arrays" in str(error) else words_of(error)


def _read_parquet(file: Path, wanted: Sequence[str], missing: Set[str]) -> dict[str, Array]:
    try:
        with open_parquet(file, str(file)) as opened:
            _require(opened.schema_arrow.names, wanted, file)
            table = opened.read(columns=list(wanted))
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"can't be read as Parquet: {error}", where=str(file), remedy="use .parquet or .npz") from error
    return {name: _column(table.column(name).combine_chunks(), file, name, name in missing) for name in wanted}


def _is_text(datatype: pa.DataType) -> bool:
    if pa.types.is_dictionary(datatype):
        return _is_text(datatype.value_type)
    kinds = (
        "is_string",
        "is_large_string",
        "is_string_view",
        "is_binary",
        "is_large_binary",
        "is_binary_view",
        "is_fixed_size_binary",
    )
    return any(getattr(pa.types, kind)(datatype) for kind in kinds)


def _text(column: pa.Array) -> Array:
    """Text and bytes of any of Arrow's kinds as `bytes`."""
    found = np.empty(len(column), dtype=np.object_)
    found[:] = [item.encode() if isinstance(item, str) else item for item in column.to_pylist()]
    return found


def as_bytes(value: Array) -> Array:
    """numpy's text (U) and bytes (S) as BYTES are kept, objects; others as they are."""
    if value.dtype.kind not in "SU":
        return value
    found = np.empty(value.size, dtype=np.object_)
    found[:] = [item.encode() if isinstance(item, str) else item for item in value.ravel().tolist()]
    return found.reshape(value.shape)


def _column(column: pa.Array, file: Path, name: str, missing: bool) -> Array:
    """`missing`: a null among numbers is NaN."""
    if column.null_count and missing and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        column = column.cast(pa.float64(), safe=False) if pa.types.is_integer(column.type) else column
    elif column.null_count:
        lets = "; evaluate.refuse_nan: false takes them for NaN" if pa.types.is_floating(column.type) else ""
        raise BadInput(f"column {name} has {column.null_count} nulls", where=str(file), remedy=f"fill or drop them{lets}")
    shape = [len(column)]
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        inner = column.flatten()
        shape.append(len(inner) // max(1, len(column)))
        if shape[-1] * len(column) != len(inner):
            raise BadInput(f"the lists in column {name} differ in length", where=str(file), remedy="make them equally long")
        column = inner
    values = _text(column) if _is_text(column.type) else column.to_numpy(zero_copy_only=False)
    return values.reshape([len(values) if len(shape) == 1 else shape[0], *shape[1:]])


def _require(found: Sequence[str], wanted: Sequence[str], file: Path) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise BadInput(
            f"has no column {', '.join(missing)}; it has {', '.join(found)}", where=str(file), remedy="rename one of them"
        )


def _fit(value: Array, spec: TensorSpec, file: Path, missing: bool) -> Array:
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
        good = np.isfinite(value) | np.isnan(value) if missing else np.isfinite(value)
        bad = np.flatnonzero(~good.all(axis=tuple(range(1, value.ndim))))
        if bad.size:
            raise BadInput(
                f"{bad.size} rows hold {'infinity' if missing else 'NaN or infinity'}, the first is row {bad[0]}",
                where=where,
                remedy="fill or drop them" + ("" if missing else "; evaluate.refuse_nan: false lets NaN through to the model"),
            )
    if (value.dtype == np.object_) != (dtype == np.object_) or not np.can_cast(value.dtype, dtype, casting="same_kind"):
        raise BadInput(f"has datatype {_shown(value)}, the input has {spec.datatype}", where=where, remedy="convert the column")
    return np.ascontiguousarray(value.astype(dtype, copy=False))


def _shown(value: Array) -> str:
    return "text" if value.dtype == np.object_ else str(value.dtype)


def _check_labels(labels: Array, file: Path, label: str) -> Array:
    """Numbers, truths (as 0 and 1) or text, one a row."""
    flat = labels.reshape(len(labels)) if labels.size == len(labels) else labels
    where = f"{file} column {label}"
    if flat.dtype == np.bool_:
        flat = flat.astype(np.int64)
    if flat.ndim != 1 or not (np.issubdtype(flat.dtype, np.number) or flat.dtype == np.object_):
        raise BadInput(
            f"labels are {_shown(labels)} of shape {list(labels.shape[1:])}",
            where=where,
            remedy="give one number or text a row",
        )
    if np.issubdtype(flat.dtype, np.floating) and not np.isfinite(flat).all():
        raise BadInput("labels hold NaN or infinity", where=where, remedy="fill or drop them")
    return flat


def check_classes(labels: Array, answers: Mapping[str, Array], where: str) -> None:
    """Raises BadInput unless the labels are classes of the model, as far as its `answers` tell.

    Where an output is the class, labels are of its kind. Else they are the scores' places, whole numbers from 0 on.
    """
    named = class_output(answers)
    if named is not None:
        text = answers[named].dtype == np.object_
        if text != (labels.dtype == np.object_):
            raise BadInput(
                f"labels are {_shown(labels)}, the model's classes (output {named}) are {'text' if text else 'numbers'}",
                where=where,
                remedy="write the labels as the model names its classes, or select another output",
            )
        return
    scores = score_output(answers)
    if scores is None or labels.dtype == np.object_:
        raise BadInput(
            "labels are text, and the model gives scores whose places have no names",
            where=where,
            remedy="write each label as the place of its class, from 0 on; or select an output that is the class",
        )
    classes = max(2, flat(answers[scores]).shape[1])
    numbers = labels.astype(np.float64)
    wrong = np.flatnonzero((numbers != np.floor(numbers)) | (numbers < 0) | (numbers >= classes))
    if wrong.size:
        raise BadInput(
            f"{wrong.size} labels are not among the model's classes 0..{classes - 1}; the first is that of row {wrong[0]}",
            where=where,
            remedy="check the label column, or say task: regression",
        )
