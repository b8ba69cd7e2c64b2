"""Makes a finished run visible to readers in one step."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict

from consumers.batch.spec import Mode
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.records import OutputFile, Receipt, RunRecord, reading, rows_differ
from deployments.artifacts.places import Place, explaining, locate
from deployments.privacy.parquet import LockedFile, open_parquet

_AT_FDCWD = -100
_EXCHANGE = 2
_READERS = 16  # of footers


class FileReceipt(BaseModel):
    """One published file, by its path below the output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    rows: int
    size_bytes: int
    sha256: str


class RunManifest(BaseModel):
    """manifest.json: the whole run in numbers.

    `inputs` are the (path, size) of the files that were scored, `damaged` those that could not be read, with the reason.
    `others` is how many files beside them are no data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    name: str
    model: str
    version: int
    digest: str
    as_of: str | None
    started_s: float
    ended_s: float
    units: int
    rows: int
    written: int
    quarantined: int
    output: str
    quarantine: str | None
    files: tuple[FileReceipt, ...]
    inputs: tuple[tuple[str, int], ...]
    damaged: tuple[tuple[str, int, str], ...] = ()
    others: int = 0


def check_staged(ledger: Ledger, receipts: Sequence[Receipt]) -> None:
    """Counts the rows of the files to be published, in their footers, against the rows that were scored.

    Files of killed attempts, which no receipt names, are removed. Blocks. Raises Conflict where a row is lost or doubled.
    """
    good = [file for receipt in receipts for file in receipt.files]
    bad = [receipt.quarantine for receipt in receipts if receipt.quarantine is not None]
    for place, files, wanted in (
        (ledger.data, good, sum(receipt.written for receipt in receipts)),
        (ledger.quarantine, bad, sum(receipt.quarantined for receipt in receipts)),
    ):
        with explaining(place.path):
            named = {(place / file.path).path for file in files}
            for info in place.files():
                if info.path not in named:
                    place.filesystem.delete_file(info.path)
            with ThreadPoolExecutor(_READERS) as pool:
                found = sum(pool.map(lambda file, at=place: _rows_of(at / file.path, file), files))
        if found != wanted or len(named) != len(files):
            raise rows_differ(found, wanted, place.path)


def _rows_of(place: Place, written: OutputFile) -> int:
    """By its footer. Who may write encrypted files need not be able to read them: of such a file, as many as its writer counted,
    where it has the size that was written, else none."""
    with place.filesystem.open_input_file(place.path) as file:
        try:
            return int(open_parquet(file, place.path).metadata.num_rows)
        except LockedFile:
            return written.rows if file.size() == written.size_bytes else 0


def manifest_of(ledger: Ledger, record: RunRecord, receipts: Sequence[Receipt], *, ended_s: float) -> RunManifest:
    """From the receipts of all units."""
    damaged = {one.path: (one.path, one.size_bytes, one.reason) for receipt in receipts for one in receipt.damaged}
    read = [piece for unit in ledger.units() for piece in unit.slices if piece.path not in damaged]
    quarantined = sum(receipt.quarantined for receipt in receipts)
    return RunManifest(
        run_id=record.run_id,
        name=record.name,
        model=record.pinned.model,
        version=record.pinned.version,
        digest=record.pinned.digest,
        as_of=record.as_of,
        started_s=record.started_s,
        ended_s=ended_s,
        units=len(receipts),
        rows=sum(receipt.rows for receipt in receipts),
        written=sum(receipt.written for receipt in receipts),
        quarantined=quarantined,
        output=record.spec.output.path,
        quarantine=quarantine_place(record).path if quarantined else None,
        files=tuple(
            FileReceipt(path=file.path, rows=file.rows, size_bytes=file.size_bytes, sha256=file.sha256)
            for receipt in receipts
            for file in receipt.files
        ),
        inputs=tuple(sorted({(piece.path, piece.file_bytes) for piece in read})),
        damaged=(*record.damaged, *(damaged[path] for path in sorted(damaged))),
        others=record.others,
    )


def quarantine_place(record: RunRecord) -> Place:
    """Where the run's bad rows are published."""
    output = record.spec.output
    return locate(output.quarantine or f"{output.path}.quarantine")


def shown_below(target: Place, record: RunRecord) -> Place:
    """Where the run's files stand in `target`, output or quarantine: what is appended has a folder a run."""
    return target / f"run={record.run_id}" if record.spec.output.mode is Mode.APPEND else target


def replaced_by(ledger: Ledger, what: str) -> Place:
    """Where the run has put what it took the place of: `what` is data or quarantine."""
    return ledger.place / f"replaced-{what}"


def publish(ledger: Ledger, record: RunRecord, manifest: RunManifest) -> None:
    """Moves the run's files to where readers look. Safe to repeat after a crash at any point.

    Locally and on file systems that rename directories readers see all of the run or none of it. Object stores have no such
    step: there files are moved one by one, and the manifest tells which belong together.
    """
    output = locate(record.spec.output.path)
    with explaining(output.path):
        (ledger.place / "manifest.json").write(manifest.model_dump_json().encode())
        ledger.scratch.remove()
        bad_rows = quarantine_place(record)
        if not manifest.quarantined and record.spec.output.mode is Mode.REPLACE and bad_rows.exists():
            _set_aside(ledger, bad_rows, "quarantine")  # those of the run that this one replaces
        _show(ledger, ledger.quarantine, bad_rows, record, "quarantine")
        _show(ledger, ledger.data, output, record, "data")
        (ledger.place / "published").write(b"")


def _show(ledger: Ledger, staged: Place, target: Place, record: RunRecord, what: str) -> None:
    if not any(record.run_id in info.base_name for info in staged.files()):
        # Nothing to show, or an earlier attempt came this far: after an exchange the staging holds what was replaced.
        _put_aside_replaced(ledger, staged, what)
        return
    target = shown_below(target, record)
    target.parent.make()
    if target.is_object_store:
        _move_files(staged, target)
    elif not target.exists():
        target.filesystem.move(staged.path, target.path)
    elif target.is_local and _exchange(staged.path, target.path):
        _put_aside_replaced(ledger, staged, what)
    else:
        _set_aside(ledger, target, what)
        target.filesystem.move(staged.path, target.path)


def _put_aside_replaced(ledger: Ledger, staged: Place, what: str) -> None:
    if staged.files():
        staged.filesystem.move(staged.path, replaced_by(ledger, what).path)
    else:
        staged.remove()


def _set_aside(ledger: Ledger, target: Place, what: str) -> None:
    aside = replaced_by(ledger, what)
    if target.is_object_store:
        _move_files(target, aside)
    else:
        target.filesystem.move(target.path, aside.path)


def _move_files(source: Place, target: Place) -> None:
    for info in source.files():
        moved = f"{target.path}{info.path[len(source.path) :]}"
        target.filesystem.move(info.path, moved)


def _exchange(one: str, other: str) -> bool:
    """Swaps two directories atomically, where the kernel and the file system can."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    return bool(call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0)


def read_manifest(ledger: Ledger) -> RunManifest:
    """The manifest of a run that has scored all its units. Raises Conflict where this version of Headrace can't read it, and
    NotFound where the run has just been removed."""
    place = ledger.place / "manifest.json"
    with reading(place, ledger.run_id):
        return RunManifest.model_validate_json(place.read())
