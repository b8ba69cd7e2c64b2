"""All runs of one output."""

from __future__ import annotations

from consumers.batch.places import Place
from consumers.batch.write.ledger import Ledger
from consumers.batch.write.records import RunPhase

_TRIES_BACK = 50


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
