"""What a run's directory tells: what is run, and what each of its units came to."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cluster.commands.versions import ResolvedVersion
from cluster.errors import Conflict, NotFound
from cluster.findings import first_finding
from cluster.fleet.outputs import OutputLimit
from cluster.signature import Signature
from cluster.watch.payloads import Payloads
from consumers.batch.plan import Damaged, Unit
from consumers.batch.read.schemas import TimeUnit
from consumers.batch.spec import BatchSpec
from deployments.artifacts.places import Place


class Pinned(BaseModel):
    """The version that the whole run scores with. `payloads` says what is kept of the rows, `outputs` how much of the
    answers is written, as the model's document did when the run began."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: int
    artifact_uri: str
    digest: str
    signature: Signature
    payloads: Payloads | None = None
    outputs: dict[str, OutputLimit] = Field(default_factory=dict)

    @classmethod
    def of(cls, found: ResolvedVersion) -> Pinned:
        """A version as the controller tells of it."""
        return cls(
            model=found.model,
            version=found.version,
            artifact_uri=found.artifact_uri,
            digest=found.digest,
            signature=found.signature,
            payloads=found.payloads,
            outputs=found.outputs,
        )


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

    @property
    def schema(self) -> pa.Schema:
        """The dataset's schema, as the run was planned with."""
        return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(self.schema_ipc)))


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


def rows_differ(found: int, wanted: int, where: str) -> Conflict:
    """Nothing is published of which rows are lost or doubled."""
    return Conflict(
        f"the files hold {found:,} rows, and {wanted:,} were scored for them: rows are lost or doubled",
        where=where,
        remedy="nothing was published; begin again with --fresh, and tell Headrace's makers of it where it comes again",
    )


def removed(run_id: str) -> NotFound:
    """A run of which something has just gone: it was given up, or is an old one."""
    return NotFound("there is no such run any more", where=run_id, remedy="ask again; spec.output.keep_runs says how many stay")


@contextmanager
def reading(place: Place, run_id: str) -> Iterator[None]:
    """Of what a run keeps at that place. Raises Conflict where this version of Headrace can't read it, and NotFound where the run
    has just been removed."""
    try:
        yield
    except ValidationError as error:
        raise unreadable(error, place.path) from error
    except FileNotFoundError as error:
        raise removed(run_id) from error


def unreadable(error: ValidationError, where: str) -> Conflict:
    """A record that another version of Headrace wrote, or nobody."""
    return Conflict(
        f"this is not a run that this version of headrace can read: {first_finding(error).words}",
        where=where,
        remedy="begin again with --fresh",
    )


def read_receipt(content: bytes) -> Receipt:
    """From a worker's answer."""
    return _RECEIPT.validate_json(content)


def receipt_bytes(receipt: Receipt) -> bytes:
    """For the answer of a worker."""
    return _RECEIPT.dump_json(receipt)


def schema_text(schema: pa.Schema) -> str:
    """For the record. Metadata is left out: pandas keeps kilobytes there."""
    return base64.b64encode(schema.remove_metadata().serialize().to_pybytes()).decode()
