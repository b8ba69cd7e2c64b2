"""Keeps a broken version from sending a whole topic to the dead letters. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Breaker:
    """Counts the rows in a row that the version failed; `limit_rows` of them open it. One answered row closes it."""

    limit_rows: int
    failed_rows: int = 0

    def after(self, *, answered_rows: int, failed_rows: int) -> Breaker:
        """The breaker after a micro-batch of which the version failed `failed_rows`; rows that were bad input don't count."""
        if answered_rows:
            return Breaker(self.limit_rows)
        return Breaker(self.limit_rows, min(self.failed_rows + failed_rows, self.limit_rows))

    @property
    def open(self) -> bool:
        """Whether the micro-batch just seen must be held and tried again, not written off."""
        return self.failed_rows >= self.limit_rows


def backoff_s(attempt: int, *, first_s: float = 0.05, most_s: float = 5.0) -> float:
    """How long to wait before attempt number `attempt` (1 is the first retry): doubling, bounded."""
    return float(min(first_s * 2 ** min(attempt - 1, 20), most_s))
