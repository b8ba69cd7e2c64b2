"""Whether a worker goes back to the same records again and again, and why. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from consumers.stream.log.port import Partition

FORGET_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Stuck:
    """How many recoveries began from the same committed offsets, `at` the first records that were not committed.

    A broker that is away and a rebalance do not count. `at` is empty where the worker
    failed while it had no commit under way; then a minute without another (`last_s`, monotonic) ends it.
    """

    recoveries: int = 0
    cause: str = ""
    at: Mapping[Partition, int] = field(default_factory=dict)
    last_s: float = 0.0

    @property
    def message(self) -> str:
        """Empty while all is well, or may still be."""
        if self.recoveries < 2:
            return ""
        where = ", ".join(f"{topic}/{number} from offset {offset}" for (topic, number), offset in sorted(self.at.items()))
        return f"went back {self.recoveries} times to the same records{f' ({where})' if where else ''}: {self.cause}"

    def after_failure(self, cause: str, firsts: Mapping[Partition, int], now_s: float) -> Stuck:
        """After one more recovery; `firsts` as `at`."""
        same = {partition: offset for partition, offset in firsts.items() if self.at.get(partition) == offset}
        if same or (not firsts and self.recoveries):
            return Stuck(self.recoveries + 1, cause, same or self.at, now_s)
        return Stuck(1, cause, firsts, now_s)

    def after_commit(self, upto: Mapping[Partition, int], owns: Callable[[Partition], bool]) -> Stuck:
        """After a commit: what it has passed, or others have taken over, holds us no more."""
        if not self.recoveries:
            return self
        at = {partition: offset for partition, offset in self.at.items() if owns(partition) and upto.get(partition, 0) <= offset}
        return Stuck(self.recoveries, self.cause, at, self.last_s) if at else Stuck()

    def after_turn(self, now_s: float) -> Stuck:
        """After a turn of the worker in which nothing failed."""
        return Stuck() if self.recoveries and not self.at and now_s > self.last_s + FORGET_AFTER_S else self
