"""Batches for the model, large enough for few calls: what small files hold is read as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from consumers.batch.plan import Slice
from consumers.batch.read.reader import Reader

_READ_BYTES = 2 * 1024 * 1024  # of one batch: enough for few calls, small enough to stay in the cache


@dataclass(frozen=True, slots=True)
class RowSpan:
    """Rows of a batch that follow each other in a slice: from its row `start` among those that pass the filter."""

    piece: Slice
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """One batch, and where its rows are from, in their order."""

    batch: pa.RecordBatch
    stretches: tuple[RowSpan, ...]


def gathered(reader: Reader, pieces: Iterable[Slice], columns: Sequence[str], batch_rows: int) -> Iterator[Gathered]:
    """The rows of the slices in order, in batches of at least `batch_rows` but for the last. Raises as the reader."""
    batches: list[pa.RecordBatch] = []
    stretches: list[RowSpan] = []
    rows = 0
    for piece in pieces:
        start = 0
        for batch in reader.batches(piece, columns):
            batches.append(batch)
            stretches.append(RowSpan(piece, start, batch.num_rows))
            start += batch.num_rows
            rows += batch.num_rows
            if rows >= batch_rows:
                yield Gathered(_joined(batches), tuple(stretches))
                batches, stretches, rows = [], [], 0
    if batches:
        yield Gathered(_joined(batches), tuple(stretches))


def rows_of_batch(schema: pa.Schema, columns: Iterable[str]) -> int:
    """How many rows a batch of these columns has."""
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
