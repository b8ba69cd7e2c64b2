"""What callers of a door meet while its processes are killed."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

# A client of gRPC's waits a second or more before it connects anew, unless told otherwise.
AT_ONCE = [(f"grpc.{which}_reconnect_backoff_ms", 50) for which in ("initial", "min", "max")]


@dataclass
class Calls:
    """What callers have met, and how long one of them was without an answer at most. Waits end after `limit_s`."""

    limit_s: float
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    away_s: float = 0.0
    _more: threading.Condition = field(default_factory=threading.Condition)

    def count(self, failure: str | None, took_s: float = 0.0) -> None:
        """One call has ended, `took_s` after the caller's answer before."""
        with self._more:
            if failure is None:
                self.answered += 1
                self.away_s = max(self.away_s, took_s)
            else:
                self.failed[failure] += 1
            self._more.notify_all()

    def await_answers(self, more: int) -> None:
        """Returns after so many more."""
        with self._more:
            target = self.answered + more
            assert self._more.wait_for(lambda: self.answered >= target, self.limit_s), self.failed
