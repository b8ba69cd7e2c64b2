"""Scores one unit: reads its row groups, writes its output and its quarantine, and says so in a receipt."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from cluster.errors import EngineFailure
from consumers.batch.plan import Slice, Unit
from consumers.batch.read.columns import bind, used_columns
from consumers.batch.read.filters import filter_columns, filter_of
from consumers.batch.read.gathered import Gathered, RowSpan, gathered, rows_of_batch
from consumers.batch.read.reader import Reader, Unreadable
from consumers.batch.read.tensors import to_tensors
from consumers.batch.score.answers import outliers_of, output_columns, to_columns
from consumers.batch.score.explained import ExplainColumns
from consumers.batch.score.rowscorer import GivenUp, RowScorer
from consumers.batch.score.unit_payloads import KeptRows, UnitPayloads
from consumers.batch.score.watched_rows import WatchedRows
from consumers.batch.spec import OnDamage
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.output import OutputWriter
from consumers.batch.write.quarantine import too_many_bad, write_quarantine
from consumers.batch.write.records import OutputFile, Receipt, RunRecord, rows_differ
from deployments.artifacts.places import explaining
from deployments.engines.datatypes import Array
from deployments.privacy.parquet import check_key
from deployments.privacy.released import released
from deployments.scoring.rows import take


@dataclass(slots=True)
class _Found:
    """What a unit has met so far. `bad` are rows by slice and by their place among the rows that pass the filter."""

    rows: int = 0
    bad: dict[Slice, dict[int, str]] = field(default_factory=dict)
    hopeless: str = ""  # why the version fails whatever it is given
    payloads: list[KeptRows] = field(default_factory=list)

    @property
    def quarantined(self) -> int:
        return sum(len(rows) for rows in self.bad.values())

    def blame(self, stretches: Iterable[RowSpan], bad: Mapping[int, str]) -> None:
        """Notes the bad rows of a batch that is made of these stretches."""
        end = 0
        for stretch in stretches:
            begin, end = end, end + stretch.rows
            here = {stretch.start + at - begin: reason for at, reason in bad.items() if begin <= at < end}
            if here:
                self.bad.setdefault(stretch.piece, {}).update(here)


class UnitRunner:
    """Runs units of one run, one at a time. Made once in each worker."""

    def __init__(
        self,
        ledger: Ledger,
        record: RunRecord,
        filesystem: pafs.FileSystem,
        scorer: RowScorer,
        *,
        payloads: UnitPayloads | None = None,
        watched: WatchedRows | None = None,
    ) -> None:
        """`payloads` takes a sample of the rows, `watched` is told of them; None: nobody is."""
        self._payloads, self._watched = payloads, watched
        self._ledger = ledger
        self._record = record
        self._scorer = scorer
        spec = record.spec
        self._schema = record.schema
        self._bindings = bind(self._schema, record.pinned.signature, spec.input, where=spec.input.paths[0])
        self._columns = output_columns(spec.output, record.pinned.signature)
        check_key(spec.output.encrypt, f"where it is scored ({socket.gethostname()})")  # each machine has its own keys
        self._explained = ExplainColumns(record, scorer, self._bindings) if spec.explain is not None else None
        self._outliers = outliers_of(self._columns, record.pinned)
        self._needed = list(used_columns(record.pinned.signature, spec.input))
        self._batch_rows = rows_of_batch(self._schema, self._needed)
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
            if self._watched is not None:
                self._watched.begin()
            try:
                files = self._write(unit, damaged, found, limit)
                quarantine = write_quarantine(self._ledger, unit.id, self._reader, found.bad, self._record.spec.output.encrypt)
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
        if self._payloads is not None:
            self._payloads.done(unit.id, found.payloads)
        if self._watched is not None:
            self._watched.done()
        return receipt

    def _write(self, unit: Unit, damaged: Collection[str], found: _Found, limit: int) -> tuple[OutputFile, ...]:
        with explaining(self._ledger.place.path), OutputWriter(self._ledger, unit.id, self._record) as writer:
            pieces = (piece for piece in unit.slices if piece.path not in damaged)
            for part in gathered(self._reader, pieces, self._needed, self._batch_rows):
                self._score(unit, part, writer, found)
                if found.hopeless or found.quarantined > limit:
                    return ()
            files = writer.finish()
        written = sum(file.rows for file in files)
        if written != found.rows - found.quarantined:
            raise rows_differ(written, found.rows - found.quarantined, self._ledger.data.path)
        return files

    def _score(self, unit: Unit, part: Gathered, writer: OutputWriter, found: _Found) -> None:
        batch, stretches = part.batch, part.stretches
        rows = to_tensors(batch, self._bindings, refuse_nan=self._record.spec.input.refuse_nan)
        bad = rows.bad
        good = rows.good
        count = batch.num_rows if good is None else len(good)
        unlike: Array | None = None
        if count:
            places = np.arange(count) if good is None else good
            kept: Mapping[str, Array] = rows.tensors
            try:
                outputs, rejected = self._scorer.score(rows.tensors, count)
            except GivenUp as told:
                found.blame(stretches, bad | {int(places[at]): reason for at, reason in told.bad.items()})
                found.hopeless = next(iter(told.bad.values())) if told.hopeless else ""
                return
            if self._watched is not None:
                self._watched.scored(rows.tensors, outputs, count, rejected)
            if self._record.pinned.outputs:
                outputs = released(outputs, self._record.pinned.outputs)
            if self._payloads is not None:
                answered = np.delete(np.arange(count), list(rejected))
                numbers = found.rows + places[answered]
                keep = self._payloads.of(unit.id, numbers, answered, rows.tensors, outputs)
                found.payloads += [keep] if keep is not None else []
            if self._outliers is not None:
                unlike = np.delete(self._outliers.p_values_of(rows.tensors), list(rejected))
            if rejected:
                bad |= {int(places[at]): reason for at, reason in rejected.items()}
                good = np.delete(places, list(rejected))
                kept = take(kept, np.delete(np.arange(count), list(rejected)))
                count = len(good)
        if count:
            good_rows = batch if good is None else batch.take(pa.array(good))
            writer.write(self._table(good_rows, kept, outputs, unlike))
        if bad:
            found.blame(stretches, bad)
        found.rows += batch.num_rows

    def _fails_every_row(self, found: _Found, unit: Unit) -> EngineFailure:
        pinned = self._record.pinned
        return EngineFailure(
            f"version {pinned.version} of {pinned.model} answered none of its first {found.quarantined:,} rows: {found.hopeless}",
            where=(self._ledger.quarantine / self._ledger.part(unit.id)).path,
            remedy="`headrace batch quarantine` shows why; mend the input, or begin again with another --version, and --fresh",
        )

    def _table(
        self, batch: pa.RecordBatch, tensors: Mapping[str, Array], outputs: Mapping[str, Array], unlike: Array | None
    ) -> pa.Table:
        pinned = self._record.pinned
        arrays = {name: batch.column(name) for name in self._record.spec.input.passthrough}
        arrays |= to_columns(self._columns, outputs, batch.num_rows, model=pinned.model, version=pinned.version, outliers=unlike)
        if self._explained is not None:
            arrays |= self._explained.of(tensors)
        return pa.table(arrays)
