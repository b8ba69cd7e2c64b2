"""Which partitions a member reads, from where on, and how far it came: the same for every Kafka client.

A partition that is gained, or has to go back, is asked for; until it is known where it begins, and that is committed, what the
client may bring of it is left out.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from consumers.stream.kafka.topic_watch import TopicWatch
from consumers.stream.log.epochs import Epochs
from consumers.stream.log.port import OwnedPartition, Partition
from consumers.stream.log.starts import Held, StartOffset, StartReason

Commit = Callable[[Mapping[Partition, StartOffset]], Future[None]]


class Reading:
    """Of one member. The client's own thread calls `gain` and `lose`, the thread that polls the rest unless it says otherwise."""

    def __init__(self, watch: TopicWatch) -> None:
        self._watch = watch
        self._epochs = Epochs()
        self._lock = threading.Lock()
        self._next: dict[Partition, int] = {}  # of those that are read: the offset behind what was taken
        self._done: dict[Partition, int] = {}
        self._reached: dict[Partition, int] = {}  # where nothing more was found: also past transaction markers
        self._starts: dict[Partition, StartOffset] = {}
        self._held: dict[Partition, str] = {}
        self._uncommitted: dict[Partition, tuple[int, StartOffset]] = {}
        self._committing: tuple[Future[None], dict[Partition, tuple[int, StartOffset]]] | None = None

    def gain(self, partitions: Iterable[Partition]) -> None:
        """They are this member's now."""
        gained = list(partitions)
        self._leave(gained)
        self._epochs.gain(gained)
        self._ask(gained)

    def lose(self, partitions: Iterable[Partition]) -> None:
        """They are this member's no more."""
        lost = list(partitions)
        self._epochs.lose(lost)
        self._watch.forget(lost)
        self._leave(lost)
        with self._lock:
            for partition in lost:
                self._starts.pop(partition, None)

    def go_back(self, partitions: Iterable[Partition] | None = None) -> list[Partition]:
        """These, or all, begin anew with what is committed. Which they are."""
        owned = self._epochs.now()
        back = list(owned) if partitions is None else list(owned.keys() & set(partitions))
        self._epochs.renew(back)
        self._leave(back)
        if partitions is None:
            self._committing = None
        self._ask(back)
        return back

    def moved(self) -> list[Partition]:
        """Those whose topic was deleted and made anew meanwhile: they begin anew."""
        moved = self._watch.moved()
        return self.go_back(moved) if moved else []

    def due(self, commit: Commit) -> dict[Partition, int]:
        """Those to be read from now on, and from where: each once.

        Where that is not what the group has committed, it is committed first. Raises what the commit raises.
        """
        ready: dict[Partition, tuple[int, StartOffset]] = {}
        for answer in self._watch.answers():
            if self._epochs.of(answer.partition) != answer.epoch:
                continue
            if isinstance(answer.found, Held):
                with self._lock:
                    self._held[answer.partition] = answer.found.reason
            elif answer.found.why is StartReason.COMMITTED:
                ready[answer.partition] = answer.epoch, answer.found
            else:
                self._uncommitted[answer.partition] = answer.epoch, answer.found
        ready |= self._committed(commit)
        return {p: start.offset for p, (epoch, start) in ready.items() if self._begins(p, epoch, start)}

    def _committed(self, commit: Commit) -> dict[Partition, tuple[int, StartOffset]]:
        done: dict[Partition, tuple[int, StartOffset]] = {}
        if self._committing is not None and self._committing[0].done():
            (future, done), self._committing = self._committing, None
            future.result()
        if self._uncommitted and self._committing is None:
            starts = {p: (epoch, start) for p, (epoch, start) in self._uncommitted.items() if self._is(p, epoch)}
            self._uncommitted.clear()
            if starts:
                self._committing = commit({partition: start for partition, (_, start) in starts.items()}), starts
        return done

    def _is(self, partition: Partition, epoch: int) -> bool:
        return self._epochs.of(partition) == epoch

    def _begins(self, partition: Partition, epoch: int, start: StartOffset) -> bool:
        with self._lock:
            if not self._is(partition, epoch):
                return False  # lost meanwhile
            self._next[partition] = self._done[partition] = start.offset
            before = self._starts.get(partition)
            # A worker that goes back to what is committed did not begin there.
            if before is None or start.why is not StartReason.COMMITTED:
                self._starts[partition] = start
            self._held.pop(partition, None)
        self._watch.read(partition, start.topic_id)
        return True

    def take(self, partition: Partition, offsets: Sequence[int]) -> tuple[int, int] | None:
        """Counts these as taken: the epoch, and how many of the first were taken before. None where all are to be left out."""
        epoch = self._epochs.of(partition)
        with self._lock:
            expected = self._next.get(partition)
            if epoch is None or expected is None or offsets[-1] < expected:
                return None
            self._next[partition] = offsets[-1] + 1
        return epoch, 0 if offsets[0] >= expected else bisect_left(offsets, expected)

    def reach(self, partition: Partition, offset: int) -> None:
        """Nothing more was found before this offset."""
        with self._lock:
            if partition in self._next:
                self._reached[partition] = offset

    def commit(self, upto: Mapping[Partition, int]) -> None:
        """The group has committed these. From any thread."""
        with self._lock:
            for partition, offset in upto.items():
                if partition in self._next:
                    self._done[partition] = offset

    def epoch(self, partition: Partition) -> int | None:
        """The epoch in which the partition is this member's, or None. From any thread."""
        return self._epochs.of(partition)

    def topic_id(self, partition: Partition) -> str:
        """That of the topic which the partition is read of; empty where it is not. From any thread."""
        start = self._starts.get(partition)
        return start.topic_id if start is not None else ""

    def position(self, partition: Partition) -> int | None:
        """Where reading goes on; None where the partition is not read."""
        with self._lock:
            following = self._next.get(partition)
            return None if following is None else max(following, self._reached.get(partition, 0))

    def is_read(self, partition: Partition) -> bool:
        """Whether it is known where the partition began."""
        return partition in self._next

    @property
    def owns(self) -> bool:
        """Whether any partition is this member's."""
        return bool(self._epochs.now())

    def owned(self) -> dict[Partition, OwnedPartition]:
        """What is known of each partition of this member. From any thread."""
        owned = self._epochs.now()
        with self._lock:
            return {partition: self._owned(partition) for partition in owned}

    def _owned(self, partition: Partition) -> OwnedPartition:
        ends, following = self._watch.ends(partition), self._next.get(partition)
        start = self._starts.get(partition)
        about = OwnedPartition(held=self._held.get(partition, ""))
        if start is not None:
            about = replace(about, began_at=start.offset, why=start.why.value, missing=start.missing)
        if following is None or ends is None:
            return about
        done = self._done[partition]
        if following <= done:  # nothing in flight: what lies before the end, as last found, are transaction markers
            done = max(done, self._reached.get(partition, 0))
        behind = max(ends.written - max(ends.readable, done), 0)
        about = replace(about, lag=max(ends.readable - done, 0))
        return replace(about, unreadable=behind, open_since_s=ends.since_s) if behind else about

    def _ask(self, partitions: Sequence[Partition]) -> None:
        epochs = self._epochs.now()
        self._watch.ask({partition: epochs[partition] for partition in partitions if partition in epochs})

    def _leave(self, partitions: Sequence[Partition]) -> None:
        with self._lock:
            for partition in partitions:
                for known in (self._next, self._done, self._reached, self._held):
                    known.pop(partition, None)
