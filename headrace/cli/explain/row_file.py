"""A row in a file: a JSON object with a field per input, an inference request, or one row of a `.npz` or Parquet file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from cluster.errors import BadInput, NotFound
from cluster.signature import Signature, TensorSpec
from deployments.builder.sources.rows import read_rows
from deployments.engines.datatypes import Array
from deployments.explain.asking import as_tensor

TABLES = (".npz", ".parquet")


def read_row(file: Path, signature: Signature, at: int) -> dict[str, Array]:
    """Row `at` of the file, [1, ...] by input. Raises NotFound, or BadInput that names file and input."""
    if not file.exists():
        raise NotFound("no such file", where=str(file), remedy="name a JSON, .npz or Parquet file")
    if file.suffix in TABLES:
        rows = read_rows(file, signature.inputs, limit=at + 1, refuse_nan=False)
        if len(rows) <= at:
            raise BadInput(f"has {len(rows)} rows, and row {at} is asked for", where=str(file), remedy="count from 0 with --at")
        return rows.take(slice(at, at + 1)).inputs
    try:
        document = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise BadInput(f"is no JSON: {error}", where=str(file), remedy="write an object with a field per input") from error
    try:
        fields = _fields(document[at] if isinstance(document, list) and len(document) > at else document, at)
    except (TypeError, ValueError) as error:
        remedy = "give each tensor `shape`, a list of whole numbers, and as many values in `data`"
        raise BadInput("the shapes of its tensors do not fit their data", where=str(file), remedy=remedy) from error
    missing = [spec.name for spec in signature.inputs if spec.name not in fields]
    if missing:
        raise BadInput(
            f"has no {', '.join(missing)}",
            where=str(file),
            remedy="write an object with a field per input, or an inference request",
        )
    return {spec.name: _row(fields[spec.name], spec, f"{file} {spec.name}") for spec in signature.inputs}


def _fields(document: Any, at: int) -> dict[str, Any]:
    """By input the row's value. An inference request's tensors have rows, of which it is row `at`."""
    if not isinstance(document, dict):
        return {}
    tensors = document.get("inputs")
    if not isinstance(tensors, list):
        return document
    found: dict[str, Any] = {}
    for tensor in tensors:
        if isinstance(tensor, dict) and isinstance(tensor.get("data"), list) and isinstance(tensor.get("shape"), list):
            each = math.prod(tensor["shape"][1:])
            data = np.array(tensor["data"], dtype=np.object_).ravel()
            found[str(tensor.get("name"))] = data[at * each : (at + 1) * each].reshape(tensor["shape"][1:]).tolist()
    return found


def _row(value: Any, spec: TensorSpec, where: str) -> Array:
    """One row, flat or nested."""
    made = as_tensor(value, spec, where)
    wanted = spec.shape[1:]
    try:
        return made.reshape(1, *(made.shape if made.ndim == len(wanted) and -1 in wanted else wanted))
    except ValueError as error:
        raise BadInput(f"has {made.size} values", where=where, remedy=f"give a row of shape {list(wanted)}") from error
