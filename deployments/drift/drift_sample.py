"""The rows that one process has drawn, counted by version, and handed on as numbered deltas."""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from cluster.drift.counts import DriftReport
from cluster.watch.catalogue import OUTLIER_ROWS, WATCHED_ROWS, ScoringWay
from deployments.drift.drawing import RowDraw
from deployments.drift.version_counting import DrawnRows, VersionCounting, VersionCounts, drawn_of, joined_rows
from deployments.engines.datatypes import Array
from deployments.observe.meters import Meters
from deployments.profiles.numbers import Counts

_log = logging.getLogger(__name__)

# What waits to be counted while nobody counts: some seconds of the rows of a version.
WAITING_S = 8


@dataclass(eq=False, slots=True)
class _Version:
    """Of one version. `scored`: it has answered since the last report."""

    counting: VersionCounting
    draw: RowDraw
    source: str
    waiting: deque[DrawnRows] = field(default_factory=deque)
    waiting_rows: int = 0
    counts: VersionCounts | None = None
    scored: bool = False
    sequence: int = 0
    sending: DriftReport | None = None


class DriftSample:
    """`drawn` is called from one thread, on the hot path; everything else from any. Nothing raises.

    A report stays the next one of its version, unchanged, until `delivered`: sent again under its number, it is counted once.
    """

    def __init__(
        self,
        meters: Meters | None = None,
        way: ScoringWay = ScoringWay.ONLINE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`meters` count what was looked at; None: nobody does."""
        self._meters, self._way, self._clock = meters, way, clock
        self.looked_at: Callable[[DrawnRows], None] | None = None  # is told of all rows that `count` counts, on its thread
        self._lock = threading.Lock()
        self._sources = (f"{uuid.uuid4().hex}-{number}" for number in itertools.count())
        self._versions: dict[VersionCounting, _Version] = {}

    def drawn(
        self,
        counting: VersionCounting,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        rows: Counts,
        *,
        failed: Collection[int] = (),
        order: Counts | None = None,
    ) -> DrawnRows | None:
        """Copies of some of the rows that a version has just scored; None mostly. They count once they are `put`.

        Row i of the outputs answers the caller's row `rows[i]`, but for those i that `failed`. That lies there in the inputs;
        where these were moved, `order` says which row of the caller's lies at each place.
        """
        known = self._versions.get(counting)
        if known is None:
            known = self._versions[counting] = _Version(
                counting, RowDraw(counting.most_rows, clock=self._clock), next(self._sources)
            )
        known.scored = True
        if not counting.watched:
            return None
        answered = known.draw.of(len(rows))
        if answered is None:
            return None
        if failed:
            answered = answered[~np.isin(answered, list(failed))]
        if not len(answered):
            return None
        theirs = rows[answered]
        asked = theirs
        if order is not None:
            lies = np.empty_like(order)
            lies[order] = np.arange(len(order))
            asked = lies[theirs]
        copied = counting.copied(inputs, outputs, theirs, asked, answered)
        return replace(copied, stands_for=known.draw.stands_for)

    def put(self, drawn: DrawnRows) -> None:
        """These rows are to be counted. Returns at once; forgets them where too many wait."""
        with self._lock:
            known = self._versions.get(drawn.version)
            if known is not None and known.waiting_rows <= WAITING_S * drawn.version.most_rows:
                known.waiting.append(drawn)
                known.waiting_rows += len(drawn.rows)

    def add(self, counting: VersionCounting, counts: VersionCounts) -> None:
        """What was counted already."""
        with self._lock:
            known = self._versions.get(counting)
            if known is not None:
                self._add(known, counts)
        self._metered(counting, counts)

    def count(self) -> None:
        """Counts what waits: some milliseconds for each version. Called about once a second."""
        for known in list(self._versions.values()):
            with self._lock:
                waiting, known.waiting, known.waiting_rows = known.waiting, deque(), 0
            if not waiting:
                continue
            drawn = joined_rows(waiting)
            try:
                counts = known.counting.count(drawn)
                if self.looked_at is not None:
                    self.looked_at(drawn)
            except Exception:  # noqa: BLE001 - a defect: these rows are lost, other versions' are not
                _log.exception("rows of %s version %d were not counted", known.counting.model, known.counting.number)
                continue
            with self._lock:
                self._add(known, counts)
            self._metered(known.counting, counts)

    def reports(self) -> list[DriftReport]:
        """Those to send now, about every ten seconds. Of a version without a profile an empty one, where it has answered."""
        self.count()
        found: list[DriftReport] = []
        for known in list(self._versions.values()):
            with self._lock:
                if known.sending is None and (known.counts is not None or (known.scored and not known.counting.watched)):
                    counts = known.counts or known.counting.nothing()
                    known.sequence += 1
                    known.sending = _report(known, counts)
                    known.counts, known.scored = None, False
                if known.sending is not None:
                    found.append(known.sending)
        return found

    def reference_of(self, report: DriftReport) -> DriftReport:
        """The report with its reference, for a controller that does not know it."""
        known = next((known for known in list(self._versions.values()) if known.sending is report), None)
        return report if known is None else report.with_reference(known.counting.reference)

    def delivered(self, report: DriftReport) -> None:
        """The controller has it, or will never take it."""
        with self._lock:
            for known in self._versions.values():
                if known.sending is not None and (known.source, known.sequence) == (report.source, report.sequence):
                    known.sending = None

    def keep(self, versions: Iterable[VersionCounting]) -> None:
        """Only these are scored with from now on."""
        kept = set(versions)
        with self._lock:
            for gone in [counting for counting in self._versions if counting not in kept]:
                del self._versions[gone]

    def _metered(self, counting: VersionCounting, counts: VersionCounts) -> None:
        if self._meters is not None:
            labels = (counting.model, str(counting.number), self._way)
            self._meters.add(WATCHED_ROWS, int(counts.rows.max(initial=0)), *labels)
            if flagged := counting.flagged(counts):
                self._meters.add(OUTLIER_ROWS, flagged, *labels)

    @staticmethod
    def _add(known: _Version, counts: VersionCounts) -> None:
        if known.counts is None:
            known.counts = counts
        else:
            known.counts.add(counts)


def _report(known: _Version, counts: VersionCounts) -> DriftReport:
    counting = known.counting
    return DriftReport(
        known.source, known.sequence, counting.model, counting.number, counting.digest, counts.rows, counts.hits, counts.histogram
    )


def of_rows(drawn: Iterable[DrawnRows], first: int, end: int, left: Counts) -> list[DrawnRows]:
    """Of what was drawn of a batch, the rows from `first` up to `end` that are not `left` out."""
    found: list[DrawnRows] = []
    for each in drawn:
        kept = (each.rows >= first) & (each.rows < end)
        if len(left):
            kept &= ~np.isin(each.rows, left)
        if kept.any():
            found.append(drawn_of(each, np.flatnonzero(kept)))
    return found
