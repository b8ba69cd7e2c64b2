"""Reads slices of files as batches of the run's types, with the hive keys as columns and the filter applied."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cluster.errors import BadInput
from cluster.foreign import first_line
from consumers.batch.plan import Damaged, Slice
from consumers.batch.read.schemas import TimeUnit, cast, once, without_views
from deployments.artifacts.places import Place
from deployments.privacy.parquet import open_parquet

_BUFFER_BYTES = 64 * 1024  # of one column
_NANOSECONDS_OF = 1000


class Unreadable(BadInput):
    """A part of a file can't be read."""

    def __init__(self, damaged: Damaged) -> None:
        remedy = "mend the file, then `headrace batch resume`; or set it aside and begin again with --fresh"
        super().__init__(f"can't be read: {damaged.reason}", where=damaged.path, remedy=remedy)
        self.damaged = damaged


class Reader:
    """Of one run. `schema` has the types of the columns that are used, and `filter_columns` are those that `rows` looks at.

    `int96_unit` is the unit of the times that older writers keep in 96 bits: what does not fit it exactly is refused.
    """

    def __init__(
        self,
        filesystem: pafs.FileSystem,
        schema: pa.Schema,
        *,
        rows: ds.Expression | None,
        filter_columns: Sequence[str],
        int96_unit: TimeUnit,
        batch_rows: int,
    ) -> None:
        self._filesystem = filesystem
        self._schema = schema
        self._filter = rows
        self._filter_columns = list(filter_columns) if rows is not None else []
        self._int96_unit = int96_unit
        self._batch_rows = batch_rows
        self._wanted: dict[tuple[str, ...], pa.Schema] = {}
        # A local column is read piece by piece, which touches a fraction of the memory. Elsewhere each read is a request.
        self._local = Place(filesystem, "").is_local

    def batches(self, piece: Slice, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """These columns of the rows that pass the filter, in the file's order.

        Raises Unreadable, and BadInput where the file has changed or holds a value that the run's type can't.
        """
        wanted = list(dict.fromkeys([*columns, *self._filter_columns]))
        for batch in self._read(piece, wanted):
            rows = self._passing(batch)
            chosen = batch.select(list(columns)) if self._filter_columns else batch
            if rows is not None:
                chosen = chosen.take(rows)
            if chosen.num_rows:
                yield chosen

    def whole_rows(self, piece: Slice) -> Iterator[pa.RecordBatch]:
        """All columns of the rows that pass the filter, as the file has them; no two have the same name."""
        with self._opened(piece, self._int96_unit) as file:
            for batch in self._pieces(file, piece, None):
                rows = None
                if self._filter is not None:
                    names = list(batch.schema.names)
                    used = [name for name in self._filter_columns if name in names]
                    keyed = pa.RecordBatch.from_arrays([batch.column(names.index(name)) for name in used], used)
                    rows = self._passing(self._typed(keyed, piece, self._filter_columns))
                whole = self._with_all_keys(batch, piece)
                whole = whole if rows is None else whole.take(rows)
                if whole.num_rows:
                    yield whole

    def _read(self, piece: Slice, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        keys = {name for name, _ in piece.partition}
        own = [name for name in columns if name not in keys]
        with self._opened(piece, self._int96_unit) as file:
            times = {name for name in own if holds_times(self._schema.field(name).type)}
            int96 = sorted(times & int96_columns(file.metadata.schema)) if times else []
            batches = self._pieces(file, piece, own)
            if not int96:
                yield from (self._typed(batch, piece, columns) for batch in batches)
                return
            other = TimeUnit.MICROSECONDS if self._int96_unit is TimeUnit.NANOSECONDS else TimeUnit.NANOSECONDS
            with self._opened(piece, other) as twin:
                for batch, again in zip(batches, self._pieces(twin, piece, int96), strict=True):
                    for name in int96:
                        self._check_exact(batch.column(name), again.column(name), name, piece)
                    yield self._typed(batch, piece, columns)

    def _check_exact(self, column: pa.Array, again: pa.Array, name: str, piece: Slice) -> None:
        micros, nanos = (column, again) if self._int96_unit is TimeUnit.MICROSECONDS else (again, column)
        fits = not finer(micros, nanos) if self._int96_unit is TimeUnit.MICROSECONDS else _in_nanoseconds(micros)
        if not fits:
            raise BadInput(
                f"column {name} holds a time that timestamp[{self._int96_unit}], its type in this run, can't hold",
                where=piece.path,
                remedy="leave it out of spec.input.passthrough, or write it in the file as a 64-bit timestamp",
            )

    def _typed(self, batch: pa.RecordBatch, piece: Slice, columns: Sequence[str]) -> pa.RecordBatch:
        names = tuple(columns)
        wanted = self._wanted.get(names)
        if wanted is None:
            wanted = pa.schema([self._schema.field(name).with_nullable(True) for name in names])
            self._wanted[names] = wanted
        if batch.schema.equals(wanted):
            return batch
        keys = dict(piece.partition)
        arrays = [
            _constant(keys[field.name], field.type, batch.num_rows)
            if field.name in keys
            else cast(batch.column(field.name), field.type, name=field.name, where=piece.path)
            for field in wanted
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=wanted)

    def _with_all_keys(self, batch: pa.RecordBatch, piece: Slice) -> pa.RecordBatch:
        names = list(batch.schema.names)
        arrays = [
            cast(column, without_views(column.type), name=name, where=piece.path)
            for name, column in zip(names, batch.columns, strict=True)
        ]
        for name, value in piece.partition:
            if name not in names:
                kind = self._schema.field(name).type if name in self._schema.names else pa.string()
                names.append(name)
                arrays.append(_constant(value, kind, batch.num_rows))
        return pa.RecordBatch.from_arrays(arrays, once(names))

    def _passing(self, batch: pa.RecordBatch) -> pa.Array | None:
        """The places of the rows that pass the filter; None where all do."""
        if self._filter is None:
            return None
        keyed = pa.Table.from_batches([batch.select(self._filter_columns)])
        rows = keyed.append_column("", pa.array(np.arange(batch.num_rows))).filter(self._filter).column("").combine_chunks()
        return None if len(rows) == batch.num_rows else rows.take(pc.array_sort_indices(rows))

    @contextmanager
    def _opened(self, piece: Slice, int96_unit: TimeUnit) -> Iterator[pq.ParquetFile]:
        info = self._filesystem.get_file_info(piece.path)
        if info.size != piece.file_bytes:
            raise BadInput(
                "the file has changed since this run was planned",
                where=piece.path,
                remedy="begin again with `headrace batch run NAME --fresh`",
            )
        with _explaining(piece):
            source = self._filesystem.open_input_file(piece.path)
        with source:
            with _explaining(piece):
                file = open_parquet(
                    source,
                    piece.path,
                    page_checksum_verification=True,
                    pre_buffer=not self._local,
                    buffer_size=_BUFFER_BYTES if self._local else 0,
                    coerce_int96_timestamp_unit=int96_unit,
                )
            yield file

    def _pieces(self, file: pq.ParquetFile, piece: Slice, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        with _explaining(piece):
            batches = file.iter_batches(self._batch_rows, row_groups=list(piece.row_groups), columns=columns, use_threads=False)
            while (batch := next(batches, None)) is not None:
                yield batch


@contextmanager
def _explaining(piece: Slice) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise Unreadable(Damaged(piece.path, piece.file_bytes, first_line(error))) from error


def _constant(value: str | None, kind: pa.DataType, rows: int) -> pa.Array:
    return pa.nulls(rows, kind) if value is None else pa.repeat(pa.scalar(value).cast(kind), rows)


def int96_types(
    source: pa.NativeFile, where: str, used: Collection[str], *, first_group: int | None
) -> tuple[TimeUnit, dict[str, pa.DataType]]:
    """The unit that fits the times in 96 bits which the file's first row group holds, and the types of the columns with such."""
    file = open_parquet(source, where, coerce_int96_timestamp_unit=TimeUnit.NANOSECONDS)
    names = sorted(int96_columns(file.metadata.schema) & set(used))
    if not names:
        return TimeUnit.MICROSECONDS, {}
    coarse = open_parquet(source, where, coerce_int96_timestamp_unit=TimeUnit.MICROSECONDS)
    groups = [] if first_group is None else [first_group]
    nanos, micros = (each.read_row_groups(groups, columns=names, use_threads=False) for each in (file, coarse))
    if any(finer(micros[name].combine_chunks(), nanos[name].combine_chunks()) for name in names):
        return TimeUnit.NANOSECONDS, {name: nanos.schema.field(name).type for name in names}
    return TimeUnit.MICROSECONDS, {name: micros.schema.field(name).type for name in names}


def finer(micros: pa.Array, nanos: pa.Array) -> bool:
    """Whether the same times, read in both units, have digits that microseconds lose. Also beyond what nanoseconds hold: there
    they wrap around as a product does, which keeps the difference."""
    pairs = zip(_leaves(micros), _leaves(nanos), strict=True)
    return any(bool((fine != coarse * np.int64(_NANOSECONDS_OF)).any()) for coarse, fine in pairs)


def _in_nanoseconds(micros: pa.Array) -> bool:
    most = np.iinfo(np.int64).max // _NANOSECONDS_OF
    return all(bool((np.abs(coarse) <= most).all()) for coarse in _leaves(micros))


def holds_times(kind: pa.DataType) -> bool:
    """Whether there are times in it, however deep."""
    return bool(pa.types.is_timestamp(kind)) or any(holds_times(kind.field(at).type) for at in range(kind.num_fields))


def int96_columns(schema: pq.ParquetSchema) -> set[str]:
    """The columns with times of 96 bits, also deep inside."""
    leaves = map(schema.column, range(len(schema)))
    return {leaf.path.split(".")[0] if leaf.path != leaf.name else leaf.name for leaf in leaves if leaf.physical_type == "INT96"}


def _leaves(column: pa.Array) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The times in a column, however deep, as their numbers; without those that are null."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        yield column.drop_null().cast(pa.int64()).to_numpy(zero_copy_only=False)
    elif pa.types.is_struct(kind):
        for inner in column.flatten():
            yield from _leaves(inner)
    elif pa.types.is_map(kind):
        yield from _leaves(column.keys)
        yield from _leaves(column.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(column.flatten())
