"""Some of the rows that a worker scores, counted beside their version's profile, and told once their unit is done."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping

import numpy as np

from cluster.control_plane import ControlPlane
from cluster.watch.catalogue import ScoringWay
from deployments.control.table_watch import DriftPush, ReportPush
from deployments.drift.drift_sample import DriftSample
from deployments.drift.version_counting import DrawnRows, VersionCounting, VersionCounts, joined_rows
from deployments.engines.datatypes import Array
from deployments.observe.meters import Meters

_log = logging.getLogger(__name__)

TELL_S = 2.0
TELL_EVERY_S = 5.0  # what a worker has counted when it ends before that is not told: rows are a sample all the same
AGAIN_S = 30.0


class WatchedRows:
    """Of one worker, used from its thread. A unit that is begun again, or fails, counts nothing."""

    def __init__(self, control: ControlPlane, counting: VersionCounting) -> None:
        meters = Meters()
        self._counting, self._sample = counting, DriftSample(meters, ScoringWay.BATCH)
        self._pushes = DriftPush(control, self._sample), ReportPush(control, meters)
        self._waiting: list[DrawnRows] = []
        self._counts: VersionCounts | None = None
        self._not_before_s = 0.0

    def begin(self) -> None:
        """A unit begins from its first row."""
        self._waiting, self._counts = [], None

    def scored(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], rows: int, rejected: Collection[int]) -> None:
        """So many rows were scored; the outputs are of those that were not rejected."""
        asked = np.delete(np.arange(rows), list(rejected)) if rejected else np.arange(rows)
        if not len(asked):
            return
        drawn = self._sample.drawn(self._counting, inputs, outputs, asked)
        if drawn is not None:
            self._waiting.append(drawn)
            if sum(len(each.rows) for each in self._waiting) >= self._counting.most_rows:
                self._count()

    def done(self) -> None:
        """The unit is done: what was counted of it is told, or kept for the next time where the controller is away."""
        self._count()
        if self._counts is not None:
            self._sample.add(self._counting, self._counts)
        self.begin()
        if time.monotonic() < self._not_before_s:
            return
        self._not_before_s = time.monotonic() + TELL_EVERY_S
        try:
            asyncio.run(self._tell())
        except TimeoutError:
            self._not_before_s = time.monotonic() + AGAIN_S
            _log.info("the controller takes long: what was counted of rows waits")

    async def _tell(self) -> None:
        async with asyncio.timeout(TELL_S):
            for push in self._pushes:
                await push.flush()

    def _count(self) -> None:
        if self._waiting:
            counts = self._counting.count(joined_rows(self._waiting))
            self._waiting = []
            if self._counts is None:
                self._counts = counts
            else:
                self._counts.add(counts)
