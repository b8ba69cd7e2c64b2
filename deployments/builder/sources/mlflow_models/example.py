"""Trial rows from MLflow's input example."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.foreign import words_of
from deployments.builder.sources.rows import as_bytes
from deployments.builder.spec import InputSpec
from deployments.engines.datatypes import NUMPY, Array

LARGEST_BYTES = 64 * 2**20
# An example is a row or a few; rows that stand beside each other are tried, too.
FEWEST_ROWS = 8


def example_rows(file: Path, inputs: Sequence[InputSpec]) -> dict[str, Array] | str:
    """The example's rows by input, repeated to a few where it has fewer; or why there are none."""
    if not inputs:
        return "the signature does not say which input it is for"
    if file.stat().st_size > LARGEST_BYTES:
        return "it is larger than 64 MiB"
    try:
        found = _by_name(json.loads(file.read_text(encoding="utf-8")), [spec.name for spec in inputs])
        rows = {spec.name: _fitted(found[spec.name], spec) for spec in inputs}
    except KeyError as error:
        return f"it has no {error.args[0]}"
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        return f"it does not fit the signature: {words_of(error)}"
    lengths = {len(value) for value in rows.values()}
    if len(lengths) != 1 or lengths == {0}:
        return "its columns have no rows, or not equally many"
    rows = _whole(rows)
    count = len(next(iter(rows.values())))
    if not count:
        return "each of its rows has a gap"
    places = np.arange(max(count, FEWEST_ROWS)) % count
    return {name: value[places] for name, value in rows.items()}


def _by_name(found: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """The example's values by input: those of a table by column, those of one matrix by the one name."""
    if isinstance(found, dict) and set(found) == {"inputs", "params"}:
        found = found["inputs"]
    if isinstance(found, dict) and "data" in found and set(found) <= {"columns", "data", "index"}:
        table = found["data"]
        columns = found.get("columns")
        if columns is None or (len(names) == 1 and names[0] not in columns):
            return {names[0]: table} if len(names) == 1 else dict(zip(names, zip(*table, strict=True), strict=True))
        return {str(name): [row[place] for row in table] for place, name in enumerate(columns)}
    if isinstance(found, dict) and set(found) == {"inputs"}:
        found = found["inputs"]
    return found if isinstance(found, dict) else {names[0]: found}


def _fitted(value: Any, spec: InputSpec) -> Array:
    dtype = NUMPY[spec.datatype]
    array = np.asarray(value, dtype=str if dtype == np.object_ else None if dtype.kind in "biu" else np.float64)
    array = (
        as_bytes(array) if dtype == np.object_ else array.astype(dtype, casting="same_kind" if dtype.kind != "f" else "unsafe")
    )
    return array.reshape(len(array), *spec.shape[1:])


def _whole(rows: dict[str, Array]) -> dict[str, Array]:
    """Those rows without gaps: what a version does with a gap is not what it is compared by."""
    kept = np.ones(len(next(iter(rows.values()))), np.bool_)
    for value in rows.values():
        if value.dtype.kind == "f":
            kept &= np.isfinite(value).reshape(len(value), -1).all(axis=1)
    return {name: value[kept] for name, value in rows.items()}
