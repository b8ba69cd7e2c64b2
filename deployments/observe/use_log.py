"""What one process counts of uses, for the audit: by caller, model, version, door and outcome, told about once a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cluster.audit.uses import OTHERS, Used, UseKind, UseReport

MINUTE_S = 60.0
# Counted apart in one report; the rest is counted together, so neither many callers nor a flood of wrong keys fill anything.
USES_MOST, ADDRESSES_MOST, LOOKS_MOST = 1024, 64, 128
NOBODY = "anybody"
CONSOLE_DOOR = "console"  # by which looks come


class UseLog:
    """Used from any thread; `add`, `refused` and `looked` return at once and never raise. Call it once a request or batch, never
    once a record.

    A report stays the next one, unchanged, until `delivered`: sent again under its number, it is recorded once. While nobody
    takes it, counting goes on, and the report after it covers a longer time.
    """

    def __init__(self, source: str, clock: Callable[[], float] = time.time) -> None:
        """`source` must be new for every process that ever counts, and the one that its other reports have."""
        self._source, self._clock = source, clock
        self._lock = threading.Lock()
        self._sequence = 0
        self._began_s = clock()
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._refused: dict[tuple[str, str, str], int] = {}
        self._looks: dict[tuple[str, str, str, str], list[int]] = {}
        self._where, self._stays, self._greets = "", False, False
        self._ending = self._ended = False
        self._sending: UseReport | None = None

    def stays(self, where: str) -> None:
        """The process goes on until it says that it ends: when it falls silent, the audit tells so. `where` names it for people,
        in a few words."""
        self._where, self._stays, self._greets = where, True, True

    def named(self, where: str) -> None:
        """Names the process for people; it ends when it likes."""
        self._where = where

    def add(self, principal: str, model: str, version: str, door: str, outcome: str, rows: int, calls: int = 1) -> None:
        """Counts calls that ended so, with their rows."""
        use = (principal, model, version, door, outcome)
        with self._lock:
            counted = self._counts.get(use)
            if counted is None:
                counted = self._new(use)
            counted[0] += calls
            counted[1] += rows

    def refused(self, reason: str, address: str, door: str) -> None:
        """Counts a credential that was not believed."""
        told = reason, address, door
        with self._lock:
            if told not in self._refused and len(self._refused) >= ADDRESSES_MOST:
                told = reason, OTHERS, ""
            self._refused[told] = self._refused.get(told, 0) + 1

    def looked(self, principal: str, model: str, what: str, door: str, rows: int) -> None:
        """Counts a look of a person at rows that are kept; `what` says which, e.g. what a run quarantined, and never what is in
        them."""
        look = principal, model, what, door
        with self._lock:
            if look not in self._looks and len(self._looks) >= LOOKS_MOST:
                look = OTHERS, "", OTHERS, door
            counted = self._looks.setdefault(look, [0, 0])
            counted[0] += 1
            counted[1] += rows

    def next_report(self) -> UseReport | None:
        """The report to send now; None where there is nothing to tell before the minute is over."""
        if self._sending is not None:
            return self._sending
        now_s = self._clock()
        with self._lock:
            due = self._ending or int(now_s // MINUTE_S) != int(self._began_s // MINUTE_S)
            something = self._counts or self._refused or self._looks or (self._ending and self._sequence and not self._ended)
            if not (self._greets or (due and something)):
                return None
            counts, self._counts = self._counts, {}
            refused, self._refused = self._refused, {}
            looks, self._looks = self._looks, {}
            began_s, self._began_s = self._began_s, now_s
        self._greets, self._ended = False, self._ending
        self._sequence += 1
        uses = {UseKind(*map(str, use)): Used(*counted) for use, counted in counts.items()}
        for (reason, address, door), times in refused.items():
            uses[UseKind(NOBODY, "", "", door, "refused", str(reason), address)] = Used(times, 0)
        for (principal, model, what, door), (looked, rows) in looks.items():
            uses[UseKind(principal, model, "", door, "", what=what)] = Used(looked, rows)
        self._sending = UseReport(self._source, self._sequence, self._where, began_s, now_s, uses, self._stays, last=self._ending)
        return self._sending

    def delivered(self, report: UseReport) -> None:
        """It is recorded."""
        if self._sending is report:
            self._sending = None

    def end(self) -> None:
        """The process ends: all that is left is the next report, or the one after it."""
        self._ending = True

    def _new(self, use: tuple[str, ...]) -> list[int]:
        """Where uses of a kind that was not seen before are counted."""
        if len(self._counts) >= USES_MOST:
            use = (OTHERS, "", "", use[3], use[4])
        return self._counts.setdefault(use, [0, 0])
