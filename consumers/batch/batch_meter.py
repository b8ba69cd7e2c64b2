"""A run's figures for operators, from its progress: units that are done, and their rows."""

from __future__ import annotations

import asyncio
import time

from cluster.control_plane import ControlPlane
from cluster.watch.catalogue import BATCH_ROWS, BATCH_UNITS, ROWS_SCORED, RequestOutcome, ScoringWay
from consumers.batch.run import RunProgress, Watcher
from deployments.control.table_watch import ReportPush, UsePush
from deployments.observe.meters import Meters

TOLD_EVERY_S = 1.0
SCORED, QUARANTINED = "scored", "quarantined"


class BatchMeter:
    """Counts what a run does, and tells the controller about once a second, and at its end. Used from the driver's thread.

    `remote`: scorers on the way to replicas count the rows themselves. `run` names the run, for the audit, which has all its rows
    once it is closed.
    """

    def __init__(self, control: ControlPlane, batch: str, model: str, version: int, *, remote: bool, run: str = "") -> None:
        self.meters = self._meters = Meters()
        self._meters.uses.named(f"run {run}" if run else "a run by hand")
        self._principal = f"batch {batch}"
        self._push, self._use_push = ReportPush(control, self._meters), UsePush(control, self._meters.uses)
        self._batch, self._model, self._version, self._remote = batch, model, str(version), remote
        self._last: RunProgress | None = None
        self._told_s = time.monotonic()

    def watching(self, watch: Watcher) -> Watcher:
        """One that counts, and then calls `watch`."""

        def counting(seen: RunProgress) -> None:
            self.count(seen)
            if seen.units_done == seen.units:
                self.close()
            elif time.monotonic() - self._told_s >= TOLD_EVERY_S:
                self.tell()
            watch(seen)

        return counting

    def count(self, seen: RunProgress) -> None:
        """What is new since the last progress; what a run had done before this process began is not this one's. A unit that is
        done again is counted again: its rows were scored twice."""
        last, self._last = self._last, seen
        if last is None:
            return
        bad = max(seen.quarantined - last.quarantined, 0)
        good = max(seen.rows_done - last.rows_done - bad, 0)
        self._meters.add(BATCH_UNITS, max(seen.units_done - last.units_done, 0), self._batch)
        uses, way = self._meters.uses, ScoringWay.BATCH
        if bad:
            uses.add(self._principal, self._model, self._version, way, QUARANTINED, bad)
            self._meters.add(BATCH_ROWS, bad, self._batch, QUARANTINED)
        if good:
            uses.add(self._principal, self._model, self._version, way, RequestOutcome.OK, good)
            self._meters.add(BATCH_ROWS, good, self._batch, SCORED)
            if not self._remote:
                self._meters.add(ROWS_SCORED, good, self._model, self._version, ScoringWay.BATCH)

    def close(self) -> None:
        """Brings what is left to the controller, if it is there. Safe to repeat."""
        asyncio.run(self._use_push.last())
        self.tell()

    def tell(self) -> None:
        """Brings it to the controller; where that is away it waits for the next time."""
        self._told_s = time.monotonic()
        asyncio.run(self._flush())

    async def _flush(self) -> None:
        await self._push.flush()
        await self._use_push.flush()
