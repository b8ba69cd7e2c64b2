"""The files with a unit's answers."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from consumers.batch.read.hive import by_partition
from consumers.batch.score.answers import explained_columns, output_columns, to_columns
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.records import OutputFile, RunRecord
from deployments.artifacts.places import DigestSink
from deployments.engines.datatypes import NUMPY
from deployments.privacy.parquet import encryption_of

_ROW_GROUP_ROWS = 128 * 1024


@dataclass(slots=True)
class _OpenFile:
    writer: pq.ParquetWriter
    sink: DigestSink
    rows: int = 0


class _Unfinished(Exception):
    """Ends the sinks of a writer whose files are not to appear."""


class OutputWriter:
    """One unit's output file, or one for each value of the partition columns. Nothing appears unless `finish` is reached."""

    def __init__(self, ledger: Ledger, unit: str, record: RunRecord) -> None:
        self._ledger = ledger
        self._unit = unit
        self._record = record
        self._stack = ExitStack()  # holds the sink of the open file
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._open: dict[str, _OpenFile] = {}
        self._finished = False

    def __enter__(self) -> OutputWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and not self._finished:  # files without a footer: given up as if the block had failed
            with suppress(_Unfinished), self._stack:
                raise _Unfinished
        else:
            self._stack.__exit__(kind, error, trace)

    def write(self, table: pa.Table) -> None:
        """Takes scored rows; row groups are written as they fill."""
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= _ROW_GROUP_ROWS:
            self._flush()

    def finish(self) -> tuple[OutputFile, ...]:
        """Completes the file, if any row was written."""
        if self._waiting:
            self._flush()
        for file in self._open.values():
            file.writer.close()
        self._stack.close()
        self._finished = True
        return tuple(OutputFile(path, file.rows, file.sink.size_bytes, file.sink.sha256) for path, file in self._open.items())

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting).combine_chunks()
        self._waiting, self._rows = [], 0
        for folder, part in by_partition(table, self._record.spec.output.partition_by):
            file = self._file(f"{folder}{self._ledger.part(self._unit)}", part.schema)
            file.writer.write_table(part)
            file.rows += part.num_rows

    def _file(self, path: str, schema: pa.Schema) -> _OpenFile:
        if path not in self._open:
            target = self._ledger.data / path
            target.parent.make()
            sink = self._stack.enter_context(target.writing(self._ledger.scratch))
            compression = self._record.spec.output.compression
            writer = pq.ParquetWriter(
                sink.as_file(),
                schema,
                compression=compression,
                write_page_checksum=True,
                use_dictionary=_repeating(schema, self._record.spec.input.passthrough),
                encryption_properties=encryption_of(self._record.spec.output.encrypt),
            )
            self._open[path] = _OpenFile(writer, sink)
        return self._open[path]


def _repeating(schema: pa.Schema, passed_through: Collection[str]) -> list[str]:
    """The leaves that are worth a dictionary: all but the model's floats, of which hardly two are alike."""
    sink = pa.BufferOutputStream()
    pq.write_metadata(schema, sink)
    leaves = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [
        leaf.path
        for leaf in map(leaves.column, range(len(leaves)))
        if leaf.physical_type not in ("FLOAT", "DOUBLE") or leaf.path.split(".")[0] in passed_through
    ]


def empty_output(ledger: Ledger, record: RunRecord) -> None:
    """Writes a file without rows, where every row was bad, so that readers still find the columns."""
    pinned, schema = record.pinned, record.schema
    outputs = {
        spec.name: np.empty((0, *(abs(axis) for axis in spec.shape[1:])), NUMPY[spec.datatype])
        for spec in pinned.signature.outputs
    }
    columns = output_columns(record.spec.output, pinned.signature)
    arrays = {name: pa.array([], schema.field(name).type) for name in record.spec.input.passthrough}
    arrays |= to_columns(columns, outputs, 0, model=pinned.model, version=pinned.version)
    arrays |= explained_columns([], [], []) if record.spec.explain is not None else {}
    with (ledger.data / ledger.part("empty")).writing(ledger.scratch) as sink:
        pq.write_table(pa.table(arrays), sink.as_file(), encryption_properties=encryption_of(record.spec.output.encrypt))
