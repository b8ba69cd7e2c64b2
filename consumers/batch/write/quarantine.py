"""The rows that can't be scored, kept whole with their reason and their file."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import BadInput
from consumers.batch.plan import Slice
from consumers.batch.read.reader import Reader
from consumers.batch.read.schemas import joined, once
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.records import OutputFile, rows_differ
from deployments.artifacts.places import explaining
from deployments.privacy.parquet import encryption_of

REASON = "_reason"
FILE = "_file"

# Reasons by slice, and by the row's place among those of the slice that pass the filter.
BadRows = Mapping[Slice, Mapping[int, str]]


def write_quarantine(ledger: Ledger, unit: str, reader: Reader, bad: BadRows, key: str = "") -> OutputFile | None:
    """Writes a unit's bad rows, which are read again, now with all their columns: they are few. None where none is bad.
    `key` is what it is encrypted for; empty: it is not.

    Raises as the reader, and Conflict where not every bad row was found again.
    """
    if not bad:
        return None
    whole = joined([table for piece, reasons in bad.items() for table in _bad_of(reader, piece, reasons)])
    target = ledger.quarantine / ledger.part(unit)
    with explaining(target.path), target.writing(ledger.scratch) as sink:
        pq.write_table(whole, sink.as_file(), encryption_properties=encryption_of(key))
    wanted = sum(map(len, bad.values()))
    if whole.num_rows != wanted:
        raise rows_differ(whole.num_rows, wanted, target.path)
    return OutputFile(target.name, whole.num_rows, sink.size_bytes, sink.sha256)


def _bad_of(reader: Reader, piece: Slice, reasons: Mapping[int, str]) -> list[pa.Table]:
    tables = []
    start = 0
    for batch in reader.whole_rows(piece):
        here = sorted(at for at in reasons if start <= at < start + batch.num_rows)
        if here:
            rows = batch.take(pa.array([at - start for at in here], pa.int64()))
            told = [pa.array([reasons[at] for at in here], pa.string()), pa.array([piece.path] * len(here), pa.string())]
            # What an earlier run told of the same row keeps its column under another name.
            names = once([REASON, FILE, *rows.schema.names])[2:]
            tables.append(pa.table([*rows.columns, *told], [*names, REASON, FILE]))
        start += batch.num_rows
    return tables


def too_many_bad(found: int, limit: int, where: str) -> BadInput:
    """The run stops: its input is not what it should be."""
    return BadInput(
        f"{found:,} rows can't be scored, more than max_quarantined ({limit:,})",
        where=where,
        remedy="`headrace batch quarantine` shows why; mend it, or raise spec.max_quarantined, and begin again with --fresh",
    )
