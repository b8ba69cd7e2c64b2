"""Which partitions a member owns, and since when: results of an older epoch must not be committed."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from consumers.stream.log.port import Partition


class Epochs:
    """Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epochs: dict[Partition, int] = {}
        self._latest = 0

    def gain(self, partitions: Iterable[Partition]) -> None:
        """They are ours from now on; those that were ours already keep their epoch."""
        with self._lock:
            self._latest += 1
            for partition in partitions:
                self._epochs.setdefault(partition, self._latest)

    def lose(self, partitions: Iterable[Partition]) -> None:
        """They are ours no more."""
        with self._lock:
            for partition in partitions:
                self._epochs.pop(partition, None)

    def renew(self, partitions: Iterable[Partition]) -> None:
        """What was taken of them so far counts no more. Those that are not ours stay so."""
        with self._lock:
            self._latest += 1
            self._epochs |= dict.fromkeys(self._epochs.keys() & set(partitions), self._latest)

    def of(self, partition: Partition) -> int | None:
        """The epoch in which the partition is ours, or None."""
        with self._lock:
            return self._epochs.get(partition)

    def now(self) -> dict[Partition, int]:
        """Those of all partitions that are ours."""
        with self._lock:
            return dict(self._epochs)
