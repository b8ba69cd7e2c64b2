"""Keeps a scorer's table the newest, and brings what it counted to the controller; all go on by themselves while it is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from cluster.control_plane import ControlPlane
from cluster.errors import BadInput, HeadraceError, NotFound
from cluster.routing.routes import EMPTY, NOTHING, RouteTable
from deployments.control.evidence_log import EvidenceLog
from deployments.drift.drift_sample import DriftSample
from deployments.observe.meters import Meters
from deployments.observe.use_log import UseLog

POLL_S = 30.0
PUSH_EVERY_S = 1.0
DRIFT_EVERY_S = 10.0
AWAY_PAUSE_S = 0.2
AWAY_PAUSE_MAX_S = 2.0

_log = logging.getLogger(__name__)


class TableWatch:
    """Long-polls the route table and hands each new one to `changed`. The last one is kept while the controller is away."""

    def __init__(self, control: ControlPlane, changed: Callable[[RouteTable], None]) -> None:
        """`changed` is called on the event loop, and must not block."""
        self._control = control
        self._changed = changed
        self._known = asyncio.Event()
        self.table = EMPTY
        self._heard_s = time.monotonic()

    @property
    def age_s(self) -> float:
        """How long ago the controller said which table is the newest; an unchanged one is told as often as each `POLL_S`."""
        return max(time.monotonic() - self._heard_s - POLL_S, 0.0)

    async def first(self, timeout_s: float) -> None:
        """Waits for the first table, `timeout_s` at most."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._known.wait()
        except TimeoutError:
            _log.warning("no route table within %g s; still asking the controller for one", timeout_s)

    async def run(self) -> None:
        """Goes on until cancelled, whatever becomes of a table."""
        pause_s = AWAY_PAUSE_S
        after = NOTHING  # the first answer is the table as it is, also where nothing is served yet
        while True:
            try:
                table = await self._control.routes(after, POLL_S)
            except HeadraceError as error:
                _log.warning("the controller is away, table %d stays: %s", self.table.number, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, AWAY_PAUSE_MAX_S)
                continue
            pause_s = AWAY_PAUSE_S
            after = max(after, table.stamp)
            self._heard_s = time.monotonic()
            if table.stamp > self.table.stamp:
                self.table = table
                self._take_up(table)
            self._known.set()

    def _take_up(self, table: RouteTable) -> None:
        try:
            self._changed(table)
        except Exception:  # noqa: BLE001 - a fault of ours: without this task every later table would be missed, and nobody told
            _log.exception("table %d was not taken up whole", table.number)


class EvidencePush:
    """Pushes evidence about once a second. What could not be pushed waits, added up, for the next time."""

    def __init__(self, control: ControlPlane, log: EvidenceLog) -> None:
        self._control = control
        self._log = log

    async def run(self) -> None:
        """Goes on until cancelled."""
        await _once_a_second(self.flush)

    async def flush(self) -> None:
        """Pushes what there is now; keeps it where the controller is away."""
        batch = self._log.next_batch()
        if batch is None:
            return
        try:
            await self._control.push(batch)
        except HeadraceError as error:
            _log.debug("evidence waits: %s", error)
        else:
            self._log.delivered(batch)


class ReportPush:
    """Pushes what the process counted about once a second, and now and then that it lives."""

    def __init__(self, control: ControlPlane, meters: Meters) -> None:
        self._control, self._meters = control, meters

    async def run(self) -> None:
        """Goes on until cancelled."""
        await _once_a_second(self.flush)

    async def flush(self) -> None:
        """Pushes what there is now; keeps it where the controller is away."""
        report = self._meters.next_report()
        if report is None:
            return
        try:
            await self._control.push(report)
        except HeadraceError as error:
            _log.debug("a report waits: %s", error)
        else:
            self._meters.delivered(report)


class UsePush:
    """Pushes what the process counted for the audit, about once a minute. It waits until that is recorded, and nothing for it.

    Whose process stays should `flush` once before it scores: who was never heard of is not missed when it is killed."""

    def __init__(self, control: ControlPlane, uses: UseLog) -> None:
        self._control, self._uses = control, uses

    async def run(self) -> None:
        """Goes on until cancelled."""
        await _once_a_second(self.flush)

    async def flush(self) -> bool:
        """Pushes what is due; keeps it where the controller is away, or its store. Whether nothing waits now."""
        report = self._uses.next_report()
        if report is None:
            return True
        try:
            await self._control.push(report)
        except HeadraceError as error:
            _log.debug("uses wait: %s", error)
            return False
        self._uses.delivered(report)
        return True

    async def last(self) -> None:
        """Pushes all that is left, as the process ends."""
        if await self.flush():  # else one waited before: what was counted since would be in the next
            self._uses.end()
            await self.flush()


class DriftPush:
    """Counts the rows that were drawn about once a second, on another thread, and pushes the counts about every ten."""

    def __init__(self, control: ControlPlane, sample: DriftSample) -> None:
        self._control, self._sample = control, sample
        self._next_s = time.monotonic() + DRIFT_EVERY_S

    async def run(self) -> None:
        """Goes on until cancelled."""
        await _once_a_second(self._turn)

    async def _turn(self) -> None:
        await asyncio.to_thread(self._sample.count)
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + DRIFT_EVERY_S
            await self.flush()

    async def flush(self) -> None:
        """Pushes what there is now; keeps it where the controller is away."""
        for report in await asyncio.to_thread(self._sample.reports):
            try:
                try:
                    await self._control.push(report)
                except NotFound:  # the controller is new, or the version is
                    await self._control.push(self._sample.reference_of(report))
            except BadInput as error:
                _log.error("drift of %s is not watched: %s", report.model, error)
                self._sample.delivered(report)
            except HeadraceError as error:
                _log.debug("counts of rows wait: %s", error)
            else:
                self._sample.delivered(report)


async def _once_a_second(flush: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(PUSH_EVERY_S)
        try:
            await flush()
        except Exception:  # noqa: BLE001 - as above: what is counted would never be told again
            _log.exception("what was counted is told later")
