"""A run's figures for operators, from its progress: units that are done, and their rows."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from cluster.control_plane import ControlPlane
from cluster.watch.catalogue import BATCH_ROWS, BATCH_UNITS, ROWS_SCORED, RequestOutcome, ScoringWay
from consumers.batch.run import RunProgress, Watcher
from deployments.control.table_watch import ReportPush, UsePush
from deployments.observe.meters import Meters

TOLD_EVERY_S = 1.0
SCORED, QUARANTINED = "scored", "quarantined"


class BatchMeter:
    """Counts what a run does, and tells the controller about once a second, also while no unit ends, and at its end. What it
    counts with is called on the driver's thread.

    For the audit it says first that it begins, and in the end that it ends: a driver that was killed is missed, and what it did
    not tell is a gap there. `remote`: scorers on the way to replicas count the rows themselves. `run` names the run.
    """

    def __init__(self, control: ControlPlane, batch: str, model: str, version: int, *, remote: bool, run: str = "") -> None:
        self.meters = self._meters = Meters()
        self._meters.uses.stays(f"run {run} of batch {batch}" if run else f"a run of batch {batch} by hand")
        self._principal = f"batch {batch}"
        self._push, self._use_push = ReportPush(control, self._meters), UsePush(control, self._meters.uses)
        self._batch, self._model, self._version, self._remote = batch, model, str(version), remote
        self._last: RunProgress | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="batch-meter", daemon=True)

    def __enter__(self) -> Self:
        """Has it recorded that the run begins, where the controller is there to do so; before anything is scored."""
        asyncio.run(self._use_push.flush())
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Of a run that fails, too, it tells what was scored; what the controller does not take now is lost, and missed there."""
        self._over.set()
        self._thread.join()
        asyncio.run(self._end())

    def watching(self, watch: Watcher) -> Watcher:
        """One that counts, and then calls `watch`."""

        def counting(seen: RunProgress) -> None:
            self.count(seen)
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

    def _tell(self) -> None:
        asyncio.run(self._tell_on())

    async def _tell_on(self) -> None:
        """What can't be told now waits for the next time."""
        while not self._over.is_set():
            await self._push.flush()
            await self._use_push.flush()
            await asyncio.to_thread(self._over.wait, TOLD_EVERY_S)

    async def _end(self) -> None:
        await self._use_push.last()
        await self._push.flush()
