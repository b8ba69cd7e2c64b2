"""What is told again and again is told a few times a minute, and then counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

MOST_A_MINUTE = 20
WINDOW_S = 60.0
KINDS_MOST = 1000  # of which is remembered; a kind is a logger, a level and a text without its values


@dataclass(slots=True)
class _Window:
    ends_s: float
    told: int = 0
    left_out: int = 0


Kind = tuple[str, int, str]


class LeftOut:
    """Of one process. Safe to call from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[Kind, _Window] = {}
        self._next_s = float("inf")  # when the first of those ends of which something was left out

    def passes(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written: one of the first of its kind in this minute."""
        kind, now_s = (record.name, record.levelno, str(record.msg)), self._clock()
        with self._lock:
            window = self._windows.get(kind)
            if window is None or (now_s >= window.ends_s and not window.left_out):
                if window is None and len(self._windows) >= KINDS_MOST:
                    self._windows = {one: seen for one, seen in self._windows.items() if now_s < seen.ends_s or seen.left_out}
                    if len(self._windows) >= KINDS_MOST:
                        return True  # so many kinds are no repetition
                window = self._windows[kind] = _Window(now_s + WINDOW_S)
            if window.told < MOST_A_MINUTE:
                window.told += 1
                return True
            window.left_out += 1
            self._next_s = min(self._next_s, window.ends_s)
            return False

    def due(self) -> list[logging.LogRecord]:
        """A record for each kind of which some were left out in a minute that is over: how many."""
        now_s = self._clock()
        if now_s < self._next_s:
            return []
        with self._lock:
            over = [kind for kind, window in self._windows.items() if window.left_out and now_s >= window.ends_s]
            counts = {kind: self._windows.pop(kind).left_out for kind in over}
            self._next_s = min((window.ends_s for window in self._windows.values() if window.left_out), default=float("inf"))
        return [_summary(kind, count) for kind, count in counts.items()]


def _summary(kind: Kind, count: int) -> logging.LogRecord:
    name, level, text = kind
    return logging.LogRecord(name, level, "", 0, "%d more like this were left out in a minute: %s", (count, text[:200]), None)
