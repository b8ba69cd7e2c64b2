"""Which rows are looked at: drawn, a bounded number a second, whatever the traffic."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

WINDOW_S = 1.0

Places = npt.NDArray[np.intp]


class RowDraw:
    """Draws about `most` rows a second, and never more. Used from one thread.

    Each row is drawn with one chance, which follows from how many came in the second before: by nothing that is in the row and
    nothing that its sender chooses. So it is a fair sample, independent of the split and of the payload log's. All that happens
    to a batch without a drawn row is a subtraction: how many rows are passed over is drawn ahead.
    """

    def __init__(self, most: int, seed: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._random = random.Random(seed)  # noqa: S311 (no secret)
        self._began_s = clock()
        self._seen = self._taken = 0
        self._share = 1.0
        self._gap = 0

    @property
    def stands_for(self) -> float:
        """How many rows each one that is drawn now stands for."""
        return 1 / self._share

    def of(self, rows: int) -> Places | None:
        """The places of those drawn of so many rows, rising; None where there are none."""
        now_s = self._clock()
        if now_s - self._began_s >= WINDOW_S:
            self._turn(now_s)
        self._seen += rows
        room = self._most - self._taken
        if rows * self._share > room > 0:  # a burst: an even draw of it, not its beginning
            self._set_share(room / rows)
        if self._gap >= rows or room <= 0:
            self._gap = max(self._gap - rows, 0)
            return None
        places: list[int] = []
        while self._gap < rows and len(places) < room:
            places.append(self._gap)
            self._gap += 1 + self._passed_over()
        self._gap = max(self._gap - rows, 0)
        self._taken += len(places)
        return np.array(places, np.intp)

    def _turn(self, now_s: float) -> None:
        a_second = self._seen / (now_s - self._began_s)
        self._began_s, self._seen, self._taken = now_s, 0, 0
        self._set_share(min(1.0, self._most / a_second) if a_second else 1.0)

    def _set_share(self, share: float) -> None:
        self._share = share
        self._gap = self._passed_over()

    def _passed_over(self) -> int:
        """How many rows come before the next that is drawn."""
        if self._share >= 1:
            return 0
        return int(math.log(1.0 - self._random.random()) / math.log1p(-self._share))
