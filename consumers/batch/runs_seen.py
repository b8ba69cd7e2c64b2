"""How far the runs of a batch are, and what they quarantined, for the console: from their ledgers, and cheap to ask again."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from cluster.errors import NotFound
from consumers.batch.read.columns import bind
from consumers.batch.spec import BatchSpec
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.lock import is_held
from consumers.batch.write.publish import quarantine_place, read_manifest, replaced_by, shown_below
from consumers.batch.write.quarantine import FILE, REASON
from consumers.batch.write.records import Receipt, RunPhase, RunRecord, removed, totals
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import Place, explaining, locate
from deployments.gateway.console.batch_runs import BatchRunSeen, Quarantine, QuarantineReason
from deployments.privacy.parquet import LockedFile, open_parquet

RATE_S = 60.0
OVER_MOST = 2_000  # runs that are over, of all batches: they don't change
COUNTED_ROWS, COUNTED_AT_A_TIME, SEARCHED_ROWS = 100_000, 10_000, 2_000
REASONS_MOST, SAMPLES, COLUMNS_MOST, TEXT_MOST = 20, 5, 40, 120


class LedgerRuns:
    """Implements `BatchLedgers`. Of a run that is over, and of units that are done, nothing is read twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over: OrderedDict[str, BatchRunSeen] = OrderedDict()
        self._receipts: dict[str, tuple[str, dict[str, Receipt]]] = {}

    def runs(self, spec: Mapping[str, Any]) -> tuple[BatchRunSeen, ...]:
        """See `BatchLedgers.runs`."""
        history = RunHistory(locate(BatchSpec.model_validate(spec).output.path))
        with self._lock:
            known = frozenset(self._over)
        with explaining(history.home.path):
            ledgers = history.all(known)
            held = is_held(history.home)
            seen = [self._seen(run, history.home, held=held if run is ledgers[-1] else False) for run in ledgers]
        return tuple(run for run in reversed(seen) if run is not None)

    def quarantine(self, spec: Mapping[str, Any], run_id: str, redact: frozenset[str]) -> Quarantine:
        """See `BatchLedgers.quarantine`."""
        try:
            return quarantine_of(BatchSpec.model_validate(spec), run_id, redact)
        except LockedFile as error:  # who asks may see them: the key is what this process lacks
            return Quarantine(rows=0, looked_at=0, reasons=(), locked=error.what, remedy=error.remedy)

    def _seen(self, run: Ledger, home: Place, *, held: bool | None) -> BatchRunSeen | None:
        """None where it was removed just now."""
        with self._lock:
            if run.place.path in self._over:
                return self._over[run.place.path]
        try:
            seen = run_seen(run, held=held, receipts=partial(self._known_receipts, home))
        except NotFound:
            return None
        if seen.state == RunPhase.PUBLISHED:
            with self._lock:
                self._over[run.place.path] = seen
                while len(self._over) > OVER_MOST:
                    self._over.popitem(last=False)
        return seen

    def _known_receipts(self, home: Place, run: Ledger) -> Sequence[Receipt]:
        """Those of the run under way: one a batch."""
        with self._lock:
            of, known = self._receipts.get(home.path, ("", {}))
        found = run.receipts(known if of == run.run_id else {})
        with self._lock:
            self._receipts[home.path] = run.run_id, {receipt.unit: receipt for receipt in found}
        return found


def run_seen(
    run: Ledger, *, held: bool | None, receipts: Callable[[Ledger], Sequence[Receipt]] = Ledger.receipts
) -> BatchRunSeen:
    """One run by its ledger; `held` says whether somebody works on it, where it is not over. Raises NotFound where it was removed
    just now."""
    record, phase = run.record(), run.phase()
    if phase is RunPhase.SCORING:
        return _under_way(run, record, receipts(run), held=held)
    return _over(run, record, phase)


def _under_way(run: Ledger, record: RunRecord, receipts: Sequence[Receipt], *, held: bool | None) -> BatchRunSeen:
    sums, now_s = totals(receipts), time.time()
    rate = rate_of(receipts, now_s) if held is not False else None
    return BatchRunSeen(
        run_id=record.run_id,
        version=record.pinned.version,
        state="running" if held else "unfinished",
        held=held,
        as_of=record.as_of,
        fire=record.fire,
        started_s=record.started_s,
        ended_s=None,
        units=len(run.units()),
        units_done=sums.units,
        rows=record.rows,
        rows_done=sums.rows,
        quarantined=sums.quarantined,
        rows_s=rate,
        left_s=max(record.rows - sums.rows, 0) / rate if rate else None,
        files=sum(len(receipt.files) for receipt in receipts),
        size_bytes=sums.size_bytes,
    )


def rate_of(receipts: Sequence[Receipt], now_s: float) -> float | None:
    """Rows a second of the units that ended within the last minute; None where none did."""
    recent = [receipt for receipt in receipts if now_s - (receipt.started_s + receipt.seconds) < RATE_S]
    if not recent:
        return None
    begun_s = max(min(receipt.started_s for receipt in recent), now_s - RATE_S)
    return sum(receipt.rows for receipt in recent) / max(now_s - begun_s, 1e-3)


def _over(run: Ledger, record: RunRecord, phase: RunPhase) -> BatchRunSeen:
    manifest = read_manifest(run)
    return BatchRunSeen(
        run_id=record.run_id,
        version=record.pinned.version,
        state=phase.value,
        held=False,
        as_of=record.as_of,
        fire=record.fire,
        started_s=record.started_s,
        ended_s=manifest.ended_s,
        units=manifest.units,
        units_done=manifest.units,
        rows=manifest.rows,
        rows_done=manifest.rows,
        quarantined=manifest.quarantined,
        rows_s=manifest.rows / max(manifest.ended_s - manifest.started_s, 1e-3),
        left_s=None,
        files=len(manifest.files),
        size_bytes=sum(file.size_bytes for file in manifest.files),
    )


def quarantine_of(spec: BatchSpec, run_id: str, redact: frozenset[str] = frozenset()) -> Quarantine:
    """What a run quarantined, without values of the inputs that `redact` names, and of those that were redacted when it began.

    Raises NotFound where there is no such run, LockedFile where its rows are encrypted and this process lacks the key, and
    Unreachable.
    """
    history = RunHistory(locate(spec.output.path))
    with explaining(history.home.path):
        ledgers = history.all()
        at = next((i for i, run in enumerate(ledgers) if run.run_id == run_id), None)
        if at is None:
            raise removed(run_id)
        record = ledgers[at].record()
        files = _quarantined(ledgers[at], record, ledgers[at + 1 :])
        hidden = _columns_of(record, redact | set(record.pinned.payloads.redact if record.pinned.payloads else ()))
        return _quarantine(files, hidden)


def _quarantined(run: Ledger, record: RunRecord, later: Sequence[Ledger]) -> list[Place]:
    """The files of its bad rows: with the run, where readers look, or where the run after it put them."""
    published = shown_below(quarantine_place(record), record)
    for folder in (run.quarantine, published, *(replaced_by(other, "quarantine") for other in later)):
        names = [info.path for info in folder.files() if record.run_id in info.base_name]
        if names:
            return [Place(folder.filesystem, path) for path in sorted(names)]
    return []


def _columns_of(record: RunRecord, redact: set[str] | frozenset[str]) -> frozenset[str]:
    """The columns that make the inputs of these names."""
    bound = bind(record.schema, record.pinned.signature, record.spec.input, where=record.run_id)
    return frozenset(column for binding in bound if binding.name in redact for column in binding.columns)


def _quarantine(files: Sequence[Place], hidden: frozenset[str]) -> Quarantine:
    counts, rows, names = Counter[str](), 0, list[str]()
    for file in files:
        with file.filesystem.open_input_file(file.path) as opened:
            parquet = open_parquet(opened, file.path)
            rows += parquet.metadata.num_rows
            names = names or [name for name in parquet.schema_arrow.names if name not in (REASON, FILE)]
            for batch in parquet.iter_batches(COUNTED_AT_A_TIME, columns=[REASON]):
                if counts.total() >= COUNTED_ROWS:
                    break
                counts.update(map(str, batch.column(0).to_pylist()))
    shown = [name for name in names if name not in hidden][:COLUMNS_MOST]
    told = {reason: list[Mapping[str, str]]() for reason, _ in counts.most_common(REASONS_MOST)}
    for row in _rows(files, [*shown, FILE], told):
        told[row.pop(REASON)].append(row)
    redacted = tuple(name for name in names if name in hidden)
    return Quarantine(
        rows=rows,
        looked_at=counts.total(),
        reasons=tuple(QuarantineReason(_cut(reason, 500), counts[reason], tuple(samples)) for reason, samples in told.items()),
        redacted=redacted[:COLUMNS_MOST],
        more_columns=len(names) - len(shown) - len(redacted),
        kept=bool(files),
    )


def _rows(files: Sequence[Place], columns: list[str], told: Mapping[str, list[Mapping[str, str]]]) -> Iterator[dict[str, str]]:
    """A few rows of each reason, as texts; of many rows the first are searched."""
    searched = 0
    for file in files:
        with file.filesystem.open_input_file(file.path) as opened:
            for batch in open_parquet(opened, file.path).iter_batches(64, columns=[REASON, *columns]):
                reasons = batch.column(batch.schema.get_field_index(REASON)).to_pylist()
                for at, reason in enumerate(map(str, reasons)):
                    if len(told.get(reason, range(SAMPLES))) < SAMPLES:
                        yield {REASON: reason} | {name: _text(batch.column(name)[at]) for name in columns}
                searched += batch.num_rows
                if searched >= SEARCHED_ROWS or all(len(samples) >= SAMPLES for samples in told.values()):
                    return


def _text(value: pa.Scalar) -> str:
    if not value.is_valid:
        return "null"
    if isinstance(value, pa.BinaryScalar | pa.LargeBinaryScalar) and not isinstance(value, pa.StringScalar):
        return f"{len(value.as_buffer()):,} bytes"
    if isinstance(value, pa.StringScalar | pa.LargeStringScalar):  # of a bad row: it need be no UTF-8
        return _cut(bytes(value.as_buffer()[: 4 * (TEXT_MOST + 1)]).decode(errors="replace"), TEXT_MOST)
    try:
        if isinstance(value, pa.ListScalar) and len(value) > TEXT_MOST:
            return _cut(str(value.values.slice(0, TEXT_MOST).to_pylist()), TEXT_MOST)
        return _cut(str(value.as_py()), TEXT_MOST)
    except (ValueError, OverflowError):  # a time beyond the years of Python, or a text as above, deep inside
        return f"no readable {value.type}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
