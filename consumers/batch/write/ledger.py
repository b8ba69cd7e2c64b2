"""The ledger: what a run is, which of its units are done, and their receipts.

One directory a run, beside the output and hidden from its readers:
    run.json          what is run: spec, version, input (written once, before any work)
    plan.json         the units
    receipts/ID.json  one for each unit whose output is whole
    data/             the output files, until they are published by one rename
    quarantine/       the bad rows
    tmp/              files that are being written
    manifest.json     the whole run in numbers; there as soon as nothing is left to score
    published         there once readers see the run
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cluster.errors import Conflict
from cluster.signature import Signature
from consumers.batch.places import Place
from consumers.batch.plan import Damaged, Unit
from consumers.batch.read.schemas import TimeUnit
from consumers.batch.spec import BatchSpec

_UNITS = TypeAdapter(tuple[Unit, ...])
_READERS = 16
_TRIES_BACK = 50


class Pinned(BaseModel):
    """The version that the whole run scores with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: int
    artifact_uri: str
    digest: str
    signature: Signature


class RunRecord(BaseModel):
    """run.json. `schema_ipc` is the dataset's Arrow schema, base64 of its IPC form; `spec` has its dates filled in.

    `fire` is the moment of the schedule that it is the run of; empty where a person began it. `int96_unit` is the unit of times
    that are stored in 96 bits, and `others` is how many files beside the data are no data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    name: str
    spec: BatchSpec
    pinned: Pinned
    as_of: str | None
    started_s: float
    schema_ipc: str
    files: int
    rows: int
    damaged: tuple[tuple[str, int, str], ...] = ()
    fire: str = ""
    int96_unit: TimeUnit = TimeUnit.NANOSECONDS
    others: int = 0


class RunPhase(StrEnum):
    """How far a run came."""

    SCORING = "scoring"
    PUBLISHING = "publishing"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One written file, by its path below the run's data or quarantine directory."""

    path: str
    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A finished unit. `rows` were read and passed the filter; each was written or quarantined. `damaged` files are left out."""

    unit: str
    rows: int
    quarantined: int
    files: tuple[OutputFile, ...]
    quarantine: OutputFile | None
    seconds: float
    started_s: float
    damaged: tuple[Damaged, ...] = ()

    @property
    def written(self) -> int:
        """Rows in the output."""
        return self.rows - self.quarantined


_RECEIPT = TypeAdapter(Receipt)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over receipts."""

    units: int = 0
    rows: int = 0
    quarantined: int = 0
    size_bytes: int = 0

    def plus(self, receipt: Receipt) -> Totals:
        """With one more receipt."""
        size_bytes = sum(file.size_bytes for file in receipt.files)
        return Totals(
            self.units + 1, self.rows + receipt.rows, self.quarantined + receipt.quarantined, self.size_bytes + size_bytes
        )


def totals(receipts: Iterable[Receipt]) -> Totals:
    """What the finished units come to."""
    sums = Totals()
    for receipt in receipts:
        sums = sums.plus(receipt)
    return sums


def remaining(units: Sequence[Unit], receipts: Iterable[Receipt]) -> tuple[Unit, ...]:
    """The units that have no receipt, in the plan's order."""
    done = {receipt.unit for receipt in receipts}
    return tuple(unit for unit in units if unit.id not in done)


def to_repeat(units: Sequence[Unit], receipts: Iterable[Receipt]) -> tuple[tuple[Unit, Receipt], ...]:
    """The units that scored a part of a file that another unit could not read, with the receipts that no longer hold.

    A damaged file is left out whole, so these are done again without it.
    """
    known = {receipt.unit: receipt for receipt in receipts}
    damaged = {one.path: one for receipt in known.values() for one in receipt.damaged}
    again = []
    for unit in units if damaged else ():
        found = {piece.path: damaged[piece.path] for piece in unit.slices if piece.path in damaged}
        receipt = known.get(unit.id)
        if receipt is not None and found.keys() - {one.path for one in receipt.damaged}:
            again.append((replace(unit, damaged=tuple(found.values())), receipt))
    return tuple(again)


class Ledger:
    """Reads and writes one run's directory. Every write is whole or absent, and safe to repeat."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @property
    def run_id(self) -> str:
        """The run's id: the directory's name."""
        return self.place.name

    @property
    def data(self) -> Place:
        """Where output files lie until they are published."""
        return self.place / "data"

    @property
    def quarantine(self) -> Place:
        """Where quarantined rows lie until they are published."""
        return self.place / "quarantine"

    @property
    def scratch(self) -> Place:
        """Where files grow."""
        return self.place / "tmp"

    def part(self, unit: str) -> str:
        """The name of a unit's file: no other run has it, so a reader never mixes two runs."""
        return f"part-{unit.partition('-')[0]}-{self.run_id}.parquet"

    def begin(self, record: RunRecord, units: Sequence[Unit]) -> None:
        """Writes what is to be done; the record last, so that a run with a record is whole."""
        for folder in (self.data, self.quarantine, self.scratch, self.place / "receipts"):
            folder.make()
        (self.place / "plan.json").write(_UNITS.dump_json(tuple(units)))
        (self.place / "run.json").write(record.model_dump_json().encode())

    def record(self) -> RunRecord:
        """What is run. Raises Conflict where the record is not one that this version of Headrace can read."""
        try:
            return RunRecord.model_validate_json((self.place / "run.json").read())
        except ValidationError as error:
            raise Conflict(
                f"this is not a run that this version of headrace can read: {error.errors()[0]['msg']}",
                where=f"{self.place.path}/run.json",
                remedy="begin again with --fresh",
            ) from error

    def units(self) -> tuple[Unit, ...]:
        """All units of the run."""
        return _UNITS.validate_json((self.place / "plan.json").read())

    def write(self, receipt: Receipt) -> None:
        """Marks a unit as done. Called by the worker once the unit's files are whole."""
        (self.place / "receipts" / f"{receipt.unit}.json").write(_RECEIPT.dump_json(receipt))

    def forget_files(self, receipt: Receipt) -> None:
        """Removes what a unit has written, which is done again. Its receipt stays until the new one replaces it."""
        for file in receipt.files:
            (self.data / file.path).remove_file()
        if receipt.quarantine is not None:
            (self.quarantine / receipt.quarantine.path).remove_file()

    def receipts(self) -> tuple[Receipt, ...]:
        """The receipts so far, in the plan's order."""
        folder = self.place / "receipts"
        names = [name for name in folder.children() if name.endswith(".json") and not name.startswith(".")]
        with ThreadPoolExecutor(_READERS) as pool:
            return tuple(pool.map(lambda name: _RECEIPT.validate_json((folder / name).read()), names))

    def done(self) -> int:
        """How many units have a receipt, without reading them."""
        return sum(name.endswith(".json") and not name.startswith(".") for name in (self.place / "receipts").children())

    def phase(self) -> RunPhase:
        """How far the run came."""
        names = set(self.place.children())
        if "published" in names:
            return RunPhase.PUBLISHED
        return RunPhase.PUBLISHING if "manifest.json" in names else RunPhase.SCORING


def rows_differ(found: int, wanted: int, where: str) -> Conflict:
    """Nothing is published of which rows are lost or doubled."""
    return Conflict(
        f"the files hold {found:,} rows, and {wanted:,} were scored for them: rows are lost or doubled",
        where=where,
        remedy="nothing was published; begin again with --fresh, and tell Headrace's makers of it where it comes again",
    )


def read_receipt(content: bytes) -> Receipt:
    """From a worker's answer."""
    return _RECEIPT.validate_json(content)


def receipt_bytes(receipt: Receipt) -> bytes:
    """For the answer of a worker."""
    return orjson.dumps(receipt)


class Runs:
    """All runs of one output, newest last."""

    def __init__(self, output: Place) -> None:
        self.home = output.parent / f".{output.name}.headrace"

    def all(self) -> tuple[Ledger, ...]:
        """Every run that has begun, oldest first: ids sort by time."""
        folder = self.home / "runs"
        return tuple(Ledger(folder / name) for name in folder.children() if (folder / name / "run.json").exists())

    def new(self, run_id: str) -> Ledger:
        """The ledger of a run that has not begun."""
        return Ledger(self.home / "runs" / run_id)

    def unfinished(self) -> Ledger | None:
        """The newest run, where readers don't see it yet."""
        runs = self.all()
        return runs[-1] if runs and runs[-1].phase() is not RunPhase.PUBLISHED else None

    def of_fire(self, fire: str) -> Ledger | None:
        """The run of this moment of the schedule, however far it came. Looks at the newest runs only: tries follow closely."""
        return next((run for run in reversed(self.all()[-_TRIES_BACK:]) if run.record().fire == fire), None)
