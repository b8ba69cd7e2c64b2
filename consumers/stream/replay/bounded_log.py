"""A log that ends: what lies below some offsets, and of that what is chosen."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from consumers.stream.log.port import Log, Outgoing, OwnedPartition, Partition, Records, TopicLimits, subset
from consumers.stream.replay.conditions import Choose


class BoundedLog:
    """See Log. Hands out what lies below `ends`, and of that what `choose` lets through; `finished` once no more can come."""

    def __init__(self, log: Log, ends: Mapping[Partition, int], choose: Choose) -> None:
        self._log, self._ends, self._choose = log, dict(ends), choose
        self.finished = not any(ends.values())
        self.rows_skipped = 0

    def poll(self, *, max_rows: int, timeout_s: float) -> list[Records]:
        """See Log."""
        chosen: list[Records] = []
        for records in self._log.poll(max_rows=max_rows, timeout_s=timeout_s):
            below = bisect_left(records.offsets, self._ends.get(records.partition, 0))
            if below:
                kept = self._choose(subset(records, range(below)) if below < len(records) else records)
                self.rows_skipped += below - sum(map(len, kept))
                chosen += kept
        positions = {partition: self._log.position(partition) for partition in self._ends}
        self.finished = all((positions[partition] or 0) >= end for partition, end in self._ends.items())
        return chosen

    def keep_alive(self) -> None:
        """See Log."""
        self._log.keep_alive()

    def commit(self, outgoing: Sequence[Outgoing], upto: Mapping[Partition, int]) -> Future[None]:
        """See Log."""
        return self._log.commit(outgoing, upto)

    def recover(self) -> None:
        """See Log."""
        self.finished = False
        self._log.recover()

    def trouble(self) -> str:
        """See Log."""
        return self._log.trouble()

    def epoch(self, partition: Partition) -> int | None:
        """See Log."""
        return self._log.epoch(partition)

    def position(self, partition: Partition) -> int | None:
        """See Log."""
        return self._log.position(partition)

    def partitions_of(self, topic: str) -> int:
        """See Log."""
        return self._log.partitions_of(topic)

    def limits_of(self, topic: str) -> TopicLimits:
        """See Log."""
        return self._log.limits_of(topic)

    def owned(self) -> Mapping[Partition, OwnedPartition]:
        """See Log."""
        return self._log.owned()

    def close(self) -> None:
        """See Log."""
        self._log.close()
