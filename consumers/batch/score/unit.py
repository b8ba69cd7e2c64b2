"""Scores one unit: reads its row groups, writes its output and its quarantine, and says so in a receipt."""

from __future__ import annotations

import base64
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cluster.errors import BadInput, EngineFailure
from consumers.batch.places import DigestSink, explaining
from consumers.batch.plan import Slice, Unit
from consumers.batch.read.columns import bind, to_tensors, used_columns
from consumers.batch.read.filters import filter_columns, filter_of
from consumers.batch.read.hive import by_partition
from consumers.batch.read.reader import Reader, Unreadable
from consumers.batch.read.schemas import joined, once
from consumers.batch.score.answers import output_columns, to_columns
from consumers.batch.score.rowscorer import GivenUp, RowScorer
from consumers.batch.spec import OnDamage
from consumers.batch.write.ledger import Ledger, OutputFile, Receipt, RunRecord, rows_differ
from deployments.engines.datatypes import NUMPY, Array

REASON = "_reason"
FILE = "_file"
_READ_BYTES = 2 * 1024 * 1024  # of one batch: enough for few calls, small enough to stay in the cache
_ROW_GROUP_ROWS = 128 * 1024


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows of a batch that follow each other in a slice: from its row `start` among those that pass the filter."""

    piece: Slice
    start: int
    rows: int


@dataclass(slots=True)
class _Found:
    """What a unit has met so far. `bad` are rows by slice and by their place among the rows that pass the filter."""

    rows: int = 0
    bad: dict[Slice, dict[int, str]] = field(default_factory=dict)
    hopeless: str = ""  # why the version fails whatever it is given

    @property
    def quarantined(self) -> int:
        return sum(len(rows) for rows in self.bad.values())

    def blame(self, stretches: Iterable[_Stretch], bad: Mapping[int, str]) -> None:
        """Notes the bad rows of a batch that is made of these stretches."""
        end = 0
        for stretch in stretches:
            begin, end = end, end + stretch.rows
            here = {stretch.start + at - begin: reason for at, reason in bad.items() if begin <= at < end}
            if here:
                self.bad.setdefault(stretch.piece, {}).update(here)


class UnitRunner:
    """Runs units of one run, one at a time. Made once in each worker."""

    def __init__(self, ledger: Ledger, record: RunRecord, filesystem: pafs.FileSystem, scorer: RowScorer) -> None:
        self._ledger = ledger
        self._record = record
        self._scorer = scorer
        spec = record.spec
        self._schema = schema_of(record)
        self._bindings = bind(self._schema, record.pinned.signature, spec.input, where=spec.input.paths[0])
        self._columns = output_columns(spec.output, record.pinned.signature)
        self._needed = list(used_columns(record.pinned.signature, spec.input))
        self._batch_rows = _batch_rows(self._schema, self._needed)
        self._reader = Reader(
            filesystem,
            self._schema,
            rows=filter_of(spec.input, self._schema),
            filter_columns=filter_columns(spec.input),
            int96_unit=record.int96_unit,
            batch_rows=self._batch_rows,
        )

    def run(self, unit: Unit) -> Receipt:
        """Scores the unit, from its first row, whatever was done before.

        A file of which a part can't be read is left out whole, where the spec says so. Raises BadInput where it does not, where a
        file has changed, or where more rows are bad than the spec allows, and EngineFailure where the version fails every
        row; then there is no receipt and no output, and the bad rows found so far are in the run's quarantine.
        """
        started_s, begun = time.time(), time.monotonic()
        limit = self._record.spec.max_quarantined
        damaged = {one.path: one for one in unit.damaged}
        while True:
            found = _Found()
            try:
                files = self._write(unit, damaged, found, limit)
                quarantine = self._quarantine(unit, found)
            except Unreadable as error:
                if self._record.spec.input.on_damage is OnDamage.FAIL:
                    raise
                damaged[error.damaged.path] = error.damaged
            else:
                break
        if found.hopeless:
            raise self._fails_every_row(found, unit)
        if found.quarantined > limit:
            raise too_many_bad(found.quarantined, limit, (self._ledger.quarantine / self._ledger.part(unit.id)).path)
        seconds = round(time.monotonic() - begun, 3)
        receipt = Receipt(unit.id, found.rows, found.quarantined, files, quarantine, seconds, started_s, tuple(damaged.values()))
        with explaining(self._ledger.place.path):
            self._ledger.write(receipt)
        return receipt

    def _write(self, unit: Unit, damaged: Collection[str], found: _Found, limit: int) -> tuple[OutputFile, ...]:
        with explaining(self._ledger.place.path), _Writer(self._ledger, unit.id, self._record) as writer:
            for batch, stretches in self._gathered(piece for piece in unit.slices if piece.path not in damaged):
                self._score(batch, stretches, writer, found)
                if found.hopeless or found.quarantined > limit:
                    return ()
            files = writer.finish()
        written = sum(file.rows for file in files)
        if written != found.rows - found.quarantined:
            raise rows_differ(written, found.rows - found.quarantined, self._ledger.data.path)
        return files

    def _score(self, batch: pa.RecordBatch, stretches: Sequence[_Stretch], writer: _Writer, found: _Found) -> None:
        rows = to_tensors(batch, self._bindings, refuse_nan=self._record.spec.input.refuse_nan)
        bad = rows.bad
        good = rows.good
        count = batch.num_rows if good is None else len(good)
        if count:
            places = np.arange(count) if good is None else good
            try:
                outputs, rejected = self._scorer.score(rows.tensors, count)
            except GivenUp as told:
                found.blame(stretches, bad | {int(places[at]): reason for at, reason in told.bad.items()})
                found.hopeless = next(iter(told.bad.values())) if told.hopeless else ""
                return
            if rejected:
                bad |= {int(places[at]): reason for at, reason in rejected.items()}
                good = np.delete(places, list(rejected))
                count = len(good)
        if count:
            writer.write(self._table(batch if good is None else batch.take(pa.array(good)), outputs))
        if bad:
            found.blame(stretches, bad)
        found.rows += batch.num_rows

    def _gathered(self, pieces: Iterable[Slice]) -> Iterator[tuple[pa.RecordBatch, list[_Stretch]]]:
        """Batches in order, with where their rows are from. What small files hold is scored as one."""
        batches: list[pa.RecordBatch] = []
        stretches: list[_Stretch] = []
        rows = 0
        for piece in pieces:
            start = 0
            for batch in self._reader.batches(piece, self._needed):
                batches.append(batch)
                stretches.append(_Stretch(piece, start, batch.num_rows))
                start += batch.num_rows
                rows += batch.num_rows
                if rows >= self._batch_rows:
                    yield _joined(batches), stretches
                    batches, stretches, rows = [], [], 0
        if batches:
            yield _joined(batches), stretches

    def _fails_every_row(self, found: _Found, unit: Unit) -> EngineFailure:
        pinned = self._record.pinned
        return EngineFailure(
            f"version {pinned.version} of {pinned.model} answered none of its first {found.quarantined:,} rows: {found.hopeless}",
            where=(self._ledger.quarantine / self._ledger.part(unit.id)).path,
            remedy="the rows and reasons are there; mend the input, or begin again with another --version, and --fresh",
        )

    def _table(self, batch: pa.RecordBatch, outputs: Mapping[str, Array]) -> pa.Table:
        pinned = self._record.pinned
        arrays = {name: batch.column(name) for name in self._record.spec.input.passthrough}
        arrays |= to_columns(self._columns, outputs, batch.num_rows, model=pinned.model, version=pinned.version)
        return pa.table(arrays)

    def _quarantine(self, unit: Unit, found: _Found) -> OutputFile | None:
        """Reads the bad rows again, now with all their columns: they are few."""
        if not found.bad:
            return None
        tables = []
        for piece, bad in found.bad.items():
            start = 0
            for batch in self._reader.whole_rows(piece):
                here = sorted(at for at in bad if start <= at < start + batch.num_rows)
                if here:
                    rows = batch.take(pa.array([at - start for at in here], pa.int64()))
                    told = [pa.array([bad[at] for at in here], pa.string()), pa.array([piece.path] * len(here), pa.string())]
                    # What an earlier run told of the same row keeps its column under another name.
                    names = once([REASON, FILE, *rows.schema.names])[2:]
                    tables.append(pa.table([*rows.columns, *told], [*names, REASON, FILE]))
                start += batch.num_rows
        whole = joined(tables)
        target = self._ledger.quarantine / self._ledger.part(unit.id)
        with explaining(target.path), target.writing(self._ledger.scratch) as sink:
            pq.write_table(whole, sink.as_file())
        if whole.num_rows != found.quarantined:
            raise rows_differ(whole.num_rows, found.quarantined, target.path)
        return OutputFile(target.name, whole.num_rows, sink.size_bytes, sink.sha256)


@dataclass(slots=True)
class _OpenFile:
    writer: pq.ParquetWriter
    sink: DigestSink
    rows: int = 0


class _GivenUp(Exception):
    """Ends the sinks of a writer whose files are not to appear."""


class _Writer:
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

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and not self._finished:  # files without a footer: given up as if the block had failed
            with suppress(_GivenUp), self._stack:
                raise _GivenUp
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
    pinned, schema = record.pinned, schema_of(record)
    outputs = {
        spec.name: np.empty((0, *(abs(axis) for axis in spec.shape[1:])), NUMPY[spec.datatype])
        for spec in pinned.signature.outputs
    }
    columns = output_columns(record.spec.output, pinned.signature)
    arrays = {name: pa.array([], schema.field(name).type) for name in record.spec.input.passthrough}
    arrays |= to_columns(columns, outputs, 0, model=pinned.model, version=pinned.version)
    with (ledger.data / ledger.part("empty")).writing(ledger.scratch) as sink:
        pq.write_table(pa.table(arrays), sink.as_file())


def schema_of(record: RunRecord) -> pa.Schema:
    """The dataset's schema, as the run was planned with."""
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(record.schema_ipc)))


def schema_text(schema: pa.Schema) -> str:
    """For the record. Metadata is left out: pandas keeps kilobytes there."""
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()


def _batch_rows(schema: pa.Schema, columns: Iterable[str]) -> int:
    row_bytes = sum(_width(schema.field(name).type) for name in columns)
    return max(1024, min(65_536, _READ_BYTES // max(1, row_bytes)))


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _width(kind: pa.DataType) -> int:
    if isinstance(kind, pa.FixedShapeTensorType):
        return _width(kind.storage_type)
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return 512 * _width(kind.value_type)
    return int(kind.bit_width) // 8 if pa.types.is_primitive(kind) else 64


def too_many_bad(found: int, limit: int, where: str) -> BadInput:
    """The run stops: its input is not what it should be."""
    return BadInput(
        f"{found:,} rows can't be scored, more than max_quarantined ({limit:,})",
        where=where,
        remedy="look at the reasons there; then mend the input, or raise spec.max_quarantined, and begin again with --fresh",
    )
