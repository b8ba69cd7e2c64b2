"""Arrow IPC: a record's value is one stream (or file) with one row, a column per input; answers are streams of one row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from cluster.errors import BadInput
from cluster.foreign import words_of
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.batch.read.columns import ARROW, Binding, bind
from consumers.batch.read.tensors import to_tensors
from consumers.batch.spec import BatchInput as Columns
from consumers.stream.codecs.codec import Decoded
from consumers.stream.codecs.fields import REFUSED, Misfit
from consumers.stream.log.port import Header
from deployments.engines.datatypes import NUMPY, Array

FILE_MAGIC = b"ARROW1"
SCHEMAS_KEPT = 64
REMEDY = "send an Arrow IPC stream with one row"


class ArrowDecoder:
    """See Decoder. The rows of a micro-batch that share a schema become tensors in one step."""

    def __init__(self, signature: Signature, fields: Mapping[str, str]) -> None:
        for spec in signature.inputs:
            _check(spec, "input")
        self._signature = signature
        self._columns = Columns(path="", columns=dict(fields), narrow=True, refuse_nan=False)
        self._plans: dict[pa.Schema, tuple[Binding, ...] | BadInput] = {}

    def decode(self, values: Sequence[bytes | None], headers: Sequence[Sequence[Header]] = ()) -> Decoded:  # noqa: ARG002
        """See Decoder."""
        groups: dict[pa.Schema, dict[int, pa.RecordBatch]] = {}
        errors: dict[int, BadInput] = {}
        for row, value in enumerate(values):
            try:
                batch = _read(value)
                groups.setdefault(batch.schema, {})[row] = batch
            except (pa.ArrowException, OSError, MemoryError, *REFUSED) as error:
                errors[row] = BadInput(f"not Arrow: {words_of(error)}", where="value", remedy=REMEDY)
        parts = [part for schema, batches in groups.items() if (part := self._decode_group(schema, batches, errors))]
        return self._in_order(parts, errors)

    def _decode_group(
        self, schema: pa.Schema, batches: Mapping[int, pa.RecordBatch], errors: dict[int, BadInput]
    ) -> tuple[list[int], dict[str, Array]] | None:
        plan = self._plan(schema)
        if isinstance(plan, BadInput):
            errors |= dict.fromkeys(batches, plan)
            return None
        owners = list(batches)
        try:
            whole = pa.Table.from_batches(list(batches.values())).combine_chunks().to_batches()[0]
            found = to_tensors(whole, plan, refuse_nan=False)
        except (pa.ArrowException, *REFUSED) as error:
            if len(owners) > 1:  # buffers of another size than their schema says: one spoils all
                parts = [part for row in owners if (part := self._decode_group(schema, {row: batches[row]}, errors))]
                rows = [row for part in parts for row in part[0]]
                names = [spec.name for spec in self._signature.inputs]
                return (rows, {name: np.concatenate([part[1][name] for part in parts]) for name in names}) if parts else None
            errors[owners[0]] = BadInput(f"not Arrow: {words_of(error)}", where="value", remedy=REMEDY)
            return None
        errors |= {owners[row]: BadInput(why, where="value", remedy=REMEDY) for row, why in found.bad.items()}
        rows = owners if found.good is None else [owners[row] for row in found.good.tolist()]
        return (rows, found.tensors) if rows else None

    def _plan(self, schema: pa.Schema) -> tuple[Binding, ...] | BadInput:
        known = self._plans.get(schema)
        if known is None:
            try:
                known = bind(schema, self._signature, self._columns, where="value")
            except BadInput as error:
                known = BadInput(error.what, where=error.where, remedy="send a column per input")
            except (pa.ArrowException, *REFUSED) as error:  # e.g. a column's name that is no text
                known = BadInput(f"not Arrow: {words_of(error)}", where="value", remedy=REMEDY)
            if len(self._plans) >= SCHEMAS_KEPT:  # producers decide how many there are
                self._plans.clear()
            self._plans[schema] = known
        return known

    def _in_order(self, parts: Sequence[tuple[list[int], dict[str, Array]]], errors: dict[int, BadInput]) -> Decoded:
        if len(parts) == 1:
            return Decoded(parts[0][1], parts[0][0], errors)
        rows = [row for part, _ in parts for row in part]
        order = np.argsort(rows, kind="stable") if rows else np.empty(0, dtype=np.intp)
        tensors: dict[str, Array] = {}
        for spec in self._signature.inputs:
            empty: Array = np.empty((0, *spec.shape[1:]), dtype=NUMPY[spec.datatype])
            tensors[spec.name] = np.concatenate([empty, *(part[spec.name] for _, part in parts)])[order]
        return Decoded(tensors, sorted(rows), errors)


def _read(value: bytes | None) -> pa.RecordBatch:
    if not value:
        raise Misfit("no value")
    whole = pa.ipc.open_file(value).read_all() if value.startswith(FILE_MAGIC) else pa.ipc.open_stream(value).read_all()
    batches = whole.to_batches()
    rows = sum(batch.num_rows for batch in batches)
    if rows != 1:
        raise Misfit(f"{rows} rows")
    batch = next(batch for batch in batches if batch.num_rows)
    batch.validate(full=True)
    return batch


def _check(spec: TensorSpec, what: str) -> None:
    if spec.datatype is Datatype.BF16:
        raise BadInput(f"{spec.name} is BF16, which Arrow can't carry", where=f"{what}.format", remedy="use format raw")


class ArrowEncoder:
    """See Encoder. Outputs of several axes are fixed-shape tensors, others numbers or texts."""

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        for spec in outputs:
            _check(spec, "output")
        self._outputs = tuple(outputs)

    def encode(self, outputs: Mapping[str, Array]) -> list[bytes]:
        """See Encoder."""
        columns = {spec.name: _column(spec, outputs[spec.name]) for spec in self._outputs}
        whole = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
        return [_write(whole.slice(row, 1)) for row in range(whole.num_rows)]


def _column(spec: TensorSpec, array: Array) -> pa.Array:
    value_type = ARROW[spec.datatype]
    if array.ndim == 1:
        return pa.array(array, type=value_type)
    size = math.prod(array.shape[1:])
    if size:
        flat = pa.array(np.ascontiguousarray(array).reshape(-1), type=value_type)
        storage = pa.FixedSizeListArray.from_arrays(flat, size)
    else:  # an open axis along which nothing was found
        storage = pa.array([[]] * len(array), type=pa.list_(value_type, 0))
    if array.ndim == 2 or spec.datatype in (Datatype.BOOL, Datatype.BYTES):
        return storage
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(value_type, array.shape[1:]), storage)


def _write(row: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as writer:
        writer.write_batch(row)
    return bytes(sink.getvalue())
