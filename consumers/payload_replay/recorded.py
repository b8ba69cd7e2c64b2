"""A payload log's Parquet files, read back request by request."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import BadInput, NotFound
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.artifacts.places import Place, explaining, parquet_files
from deployments.engines.datatypes import NUMPY, Array
from deployments.observe.payloads.columns import OUTPUT, PREFIX, SHAPE
from deployments.observe.payloads.event import PayloadOutcome
from deployments.privacy.parquet import open_parquet

OTHER_INPUTS = "it is redacted, or of a version with other inputs: name a log of one that has it"
_NEEDED = tuple(PREFIX + name for name in ("id", "time", "model", "outcome"))


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request of n rows. `outputs` are what was answered then, of those outputs that were kept; none where it failed."""

    at_s: float
    outcome: PayloadOutcome
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    rows: int


def payload_files(uri: str) -> list[Place]:
    """The Parquet files of a file or folder, by any URI that pyarrow knows. Raises NotFound where there is none."""
    found = parquet_files(uri)
    if not found:
        raise NotFound("no Parquet file is there", where=uri, remedy="name the path of payloads.parquet, or a file below it")
    # Their names begin with the minute: so requests come about in the order of their time.
    return sorted(found, key=lambda one: one.name)


def recorded(file: Place, model: str, signature: Signature) -> Iterator[RecordedRequest]:
    """The file's requests to the model, as this signature takes them. Raises BadInput where it is no such file, or an input
    is not there."""
    with explaining(str(file)):
        try:
            with file.filesystem.open_input_file(file.path) as source:
                table = open_parquet(source, str(file)).read()
        except pa.ArrowInvalid as error:
            raise BadInput("it is no Parquet file", where=str(file), remedy="remove it, or name another folder") from error
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing:
        raise BadInput(f"it has no column {missing[0]}", where=str(file), remedy="name a folder that a payload log has written")
    table = table.filter(pc.equal(table[PREFIX + "model"], model)).combine_chunks()
    absent = [spec.name for spec in signature.inputs if spec.name not in table.column_names]
    if absent and table.num_rows:
        raise BadInput(f"it has no input {absent[0]}", where=str(file), remedy=OTHER_INPUTS)
    ids = table[PREFIX + "id"].to_pylist()
    starts = [row for row in range(len(ids)) if row == 0 or ids[row] != ids[row - 1]]
    for start, end in pairwise([*starts, len(ids)]):
        yield _request(table.slice(start, end - start), signature, str(file))


def _request(table: pa.Table, signature: Signature, where: str) -> RecordedRequest:
    outcome = PayloadOutcome(table[PREFIX + "outcome"][0].as_py())
    outputs = {
        spec.name: _tensor(table, OUTPUT + spec.name, spec, where)
        for spec in signature.outputs
        if outcome is not PayloadOutcome.ERROR and OUTPUT + spec.name in table.column_names
    }
    inputs = {spec.name: _tensor(table, spec.name, spec, where) for spec in signature.inputs}
    return RecordedRequest(table[PREFIX + "time"][0].value / 1e6, outcome, inputs, outputs, table.num_rows)


def _tensor(table: pa.Table, column: str, spec: TensorSpec, where: str) -> Array:
    values, rows = table[column].combine_chunks(), table.num_rows
    if isinstance(values, pa.ChunkedArray):
        values = values.chunk(0)
    flat = values.flatten() if pa.types.is_list(values.type) else values
    inner = list(spec.shape[1:])
    shape_column = SHAPE + column.removeprefix(PREFIX)
    if inner.count(-1) > 1 and shape_column in table.column_names:
        inner = table[shape_column][0].as_py()
    dtype = NUMPY[spec.datatype]
    array = np.asarray(flat.to_numpy(zero_copy_only=False), dtype) if spec.datatype is not Datatype.BYTES else _items(flat)
    fixed = math.prod(axis for axis in inner if axis >= 0)
    fits = inner.count(-1) <= 1 and fixed and array.size % (rows * fixed) == 0
    if not fits or (-1 not in inner and array.size != rows * fixed):
        what = f"column {column} has {array.size} values in {rows} rows, which is not {list(spec.shape)}"
        raise BadInput(what, where=where, remedy="replay it to a version with the inputs that it was recorded for")
    return array.reshape((rows, *inner))


def _items(flat: pa.Array) -> Array:
    array = np.empty(len(flat), np.object_)
    array[:] = flat.to_pylist()
    return array
