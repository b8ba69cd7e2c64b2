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

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import orjson
from pydantic import TypeAdapter

from consumers.batch.plan import Unit
from consumers.batch.write.records import Receipt, RunPhase, RunRecord, read_receipt, reading, receipt_bytes
from deployments.artifacts.places import Place

_log = logging.getLogger(__name__)

_UNITS = TypeAdapter(tuple[Unit, ...])
_READERS = 16


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

    def remove(self) -> None:
        """Removes the run's folder. The record goes first: without it, it is no run, wherever this is stopped."""
        (self.place / "run.json").remove_file()
        self.place.remove()

    def record(self) -> RunRecord:
        """What is run. Raises Conflict where the record is not one that this version of Headrace can read, and NotFound where the
        run has just been removed."""
        place = self.place / "run.json"
        with reading(place, self.run_id):
            return RunRecord.model_validate_json(place.read())

    def fire(self) -> str:
        """See `RunRecord.fire`: also of a record that is otherwise none that this version of Headrace can read. Empty, too, where
        nobody can tell, or the run has just been removed."""
        place = self.place / "run.json"
        try:
            document = orjson.loads(place.read())
        except FileNotFoundError:
            return ""
        except orjson.JSONDecodeError:
            _log.warning("of which moment of a schedule run %s was, nobody can tell: its record is no JSON", self.run_id)
            return ""
        fire = document.get("fire") if isinstance(document, dict) else None
        return fire if isinstance(fire, str) else ""

    def units(self) -> tuple[Unit, ...]:
        """All units of the run. Raises Conflict where the plan is not one that this version of Headrace can read, and NotFound
        where the run has just been removed."""
        place = self.place / "plan.json"
        with reading(place, self.run_id):
            return _UNITS.validate_json(place.read())

    def write(self, receipt: Receipt) -> None:
        """Marks a unit as done. Called by the worker once the unit's files are whole."""
        (self.place / "receipts" / f"{receipt.unit}.json").write(receipt_bytes(receipt))

    def forget_files(self, receipt: Receipt) -> None:
        """Removes what a unit has written, which is done again. Its receipt stays until the new one replaces it."""
        for file in receipt.files:
            (self.data / file.path).remove_file()
        if receipt.quarantine is not None:
            (self.quarantine / receipt.quarantine.path).remove_file()

    def receipts(self, known: Mapping[str, Receipt] = MappingProxyType({})) -> tuple[Receipt, ...]:
        """The receipts so far, in the plan's order; those of `known`, by unit, are not read again. Raises as `units` does."""
        folder = self.place / "receipts"
        names = [name for name in folder.children() if name.endswith(".json") and not name.startswith(".")]

        def receipt(name: str) -> Receipt:
            if (seen := known.get(name.removesuffix(".json"))) is not None:
                return seen
            with reading(folder / name, self.run_id):
                return read_receipt((folder / name).read())

        with ThreadPoolExecutor(_READERS) as pool:
            return tuple(pool.map(receipt, names))

    def done(self) -> int:
        """How many units have a receipt, without reading them."""
        return sum(name.endswith(".json") and not name.startswith(".") for name in (self.place / "receipts").children())

    def phase(self) -> RunPhase:
        """How far the run came."""
        names = set(self.place.children())
        if "published" in names:
            return RunPhase.PUBLISHED
        return RunPhase.PUBLISHING if "manifest.json" in names else RunPhase.SCORING
