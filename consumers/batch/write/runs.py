"""All runs of one output."""

from __future__ import annotations

import re
import secrets
from collections.abc import Container
from datetime import UTC, datetime

from consumers.batch.write.ledger import Ledger
from consumers.batch.write.records import RunPhase
from deployments.artifacts.places import Place

_RUN_ID = re.compile(r"r\d{8}T\d{6}\.\d{6}-[0-9a-f]{4}")


def new_run_id(now_s: float) -> str:
    """Ids sort by time, to the microsecond; the letter keeps readers from taking the folder `run=ID` for a date."""
    return f"r{datetime.fromtimestamp(now_s, UTC):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(2)}"


class RunHistory:
    """All runs of one output, newest last."""

    def __init__(self, output: Place) -> None:
        self.home = output.parent / f".{output.name}.headrace"

    def all(self, known: Container[str] = ()) -> tuple[Ledger, ...]:
        """Every run that has begun, oldest first: ids sort by time. Those at paths in `known` are not looked at again."""
        return tuple(run for run in self.folders() if run.place.path in known or (run.place / "run.json").exists())

    def folders(self) -> tuple[Ledger, ...]:
        """What lies where runs lie, oldest first: also what killed processes left of runs that never began, or were removed."""
        folder = self.home / "runs"
        return tuple(Ledger(folder / name) for name in folder.children() if _RUN_ID.fullmatch(name))

    def new(self, run_id: str) -> Ledger:
        """The ledger of a run that has not begun."""
        return Ledger(self.home / "runs" / run_id)

    def unfinished(self) -> Ledger | None:
        """The newest run, where readers don't see it yet."""
        runs = self.all()
        return runs[-1] if runs and runs[-1].phase() is not RunPhase.PUBLISHED else None

    def of_fire(self, fire: str) -> Ledger | None:
        """The run of this moment of the schedule, however far it came, among those that are kept: tries follow closely."""
        return next((run for run in reversed(self.all()) if run.fire() == fire), None)
