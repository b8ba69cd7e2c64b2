"""Asks the broker, on a thread of its own, where partitions begin, how far they go, and whether their topics are still the same.

Through kafka-python whatever client the stream has: none of them says of a commit that is not yet stable that it is not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.admin import OffsetSpec  # type: ignore[import-untyped]

from cluster.errors import HeadraceError
from cluster.foreign import kind_and_words
from consumers.stream.breaker import backoff_s
from consumers.stream.kafka.admin import Admin
from consumers.stream.kafka.kafka_python.client import leaderless_in, topics_in
from consumers.stream.kafka.start_finder import StartFinder
from consumers.stream.kafka.unassigned import Unassigned
from consumers.stream.log.port import Member, Partition
from consumers.stream.log.starts import Held, Notes, SeenTopic, StartOffset, StartReason, labelled
from consumers.stream.spec import StreamSpec

LOOK_EVERY_S = 1.0
TOPICS_EVERY_S = 5.0
ASK_AGAIN_S = 0.25
NOTE_AGAIN_S = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a partition that was asked for in `epoch` begins."""

    partition: Partition
    epoch: int
    found: StartOffset | Held


@dataclass(frozen=True, slots=True)
class Ends:
    """How far a partition goes: `readable` up to the first open transaction, `written` in all; stuck there `since_s` (Unix)."""

    readable: int
    written: int
    since_s: float


class TopicWatch:
    """Of one member of a group. `begin` must be called once; everything may be called from any thread, and nothing blocks."""

    def __init__(self, spec: StreamSpec, admin: Admin, member: Member, notes: Notes) -> None:
        self._spec, self._admin, self._group = spec, admin, member.group
        self._finder = StartFinder(spec.input, admin, member.group, notes)
        self._unassigned = Unassigned(member, spec.input)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._asked: dict[Partition, int] = {}  # by epoch, those that wait for an answer
        self._read: dict[Partition, str] = {}  # those that are read, with their topic's id
        self._unnoted: dict[Partition, str] = {}
        self._answers: list[Placement] = []
        self._moved: set[Partition] = set()
        self._ends: dict[Partition, Ends] = {}
        self._hinted: set[str] = set()
        self._topics: dict[str, SeenTopic] = {}
        self._leaderless: set[Partition] = set()
        self._topics_s = self._note_s = 0.0
        self._reported: dict[Partition, StartOffset | Held] = {}
        self._thread = threading.Thread(target=self._run, name="stream-topics", daemon=True)

    def begin(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def ask(self, partitions: Mapping[Partition, int]) -> None:
        """Asks where these partitions begin, which were gained in these epochs. Until the answer they are not read."""
        with self._lock:
            self._asked |= partitions
            for partition in partitions:
                self._read.pop(partition, None)
        self._wake.set()

    def forget(self, partitions: Iterable[Partition]) -> None:
        """They are this member's no more."""
        with self._lock:
            for partition in partitions:
                for known in (self._asked, self._read, self._ends):
                    known.pop(partition, None)

    def read(self, partition: Partition, topic_id: str) -> None:
        """The partition is read from now on, and what it begins with is committed: that is remembered."""
        with self._lock:
            self._read[partition] = self._unnoted[partition] = topic_id
        self._wake.set()

    def answers(self) -> list[Placement]:
        """Those found since the last call. A partition that is held is asked for again by itself."""
        if not self._answers:
            return []
        with self._lock:
            found, self._answers = self._answers, []
        return found

    def moved(self) -> set[Partition]:
        """Those that are read and whose topic is another one by now, since the last call."""
        if not self._moved:
            return set()
        with self._lock:
            moved, self._moved = self._moved, set()
        return moved

    def ends(self, partition: Partition) -> Ends | None:
        """How far the partition goes, as seen a second ago; None where that is not known yet."""
        return self._ends.get(partition)

    def close(self) -> None:
        """Ends the thread, which may still wait for the broker. Does not wait."""
        self._closed = True
        self._wake.set()

    # --- the thread

    def _run(self) -> None:
        failed = 0
        while not self._closed:
            try:
                with self._admin.asking():
                    self._look()
            except HeadraceError as error:
                failed += 1
                self._fail(error)
            except Exception as error:  # without this thread the stream would stand and say nothing
                logger.exception("%s: a fault of ours", self._group)
                failed += 1
                self._fail(HeadraceError(kind_and_words(error), where=self._group, remedy="see the replica's log"))
            else:
                failed = 0
            wait_s = backoff_s(failed, first_s=ASK_AGAIN_S) if failed or self._waiting else LOOK_EVERY_S
            self._wake.wait(wait_s)
            self._wake.clear()
        self._admin.close()

    def _fail(self, error: HeadraceError) -> None:
        """What is asked for stays held, and says why."""
        logger.warning("%s can't ask where its partitions begin: %s", self._group, error)
        with self._lock:
            self._answers += [
                Placement(partition, epoch, Held(str(error), passing=True)) for partition, epoch in self._asked.items()
            ]
        self._admin.close()

    @property
    def _waiting(self) -> bool:
        """Whether some partition is asked for that need not wait for a person."""
        held = {partition for partition, what in self._reported.items() if isinstance(what, Held) and not what.passing}
        return bool(self._asked.keys() - held)

    def _look(self) -> None:
        with self._lock:
            asked, read, unnoted = dict(self._asked), dict(self._read), dict(self._unnoted)
        if asked or read:
            self._look_at_topics({partition.topic for partition in (*asked, *read)}, now=bool(asked), read=read)
        if asked:
            self._find(asked)
        if read:
            self._look_at_ends(read)
            if not self._unassigned.look(self._admin.client):
                self._admin.close()
        if unnoted and time.monotonic() >= self._note_s:
            self._note_begun(unnoted)

    def _look_at_topics(self, names: set[str], *, now: bool, read: Mapping[Partition, str]) -> None:
        if not now and time.monotonic() - self._topics_s < TOPICS_EVERY_S:
            return
        self._topics_s = time.monotonic()
        described = self._admin.client.describe_topics(sorted(names))
        before, self._topics = self._topics, topics_in(described)
        self._leaderless = leaderless_in(described)
        if any(name in before and topic.partitions > before[name].partitions for name, topic in self._topics.items()):
            self._unassigned.expect_growth()
        moved = {
            partition
            for partition, topic_id in read.items()
            if partition.topic in self._topics and self._topics[partition.topic].id != topic_id
        }
        with self._lock:
            self._moved |= moved & self._read.keys()
        for name, topic in self._topics.items():
            if topic.partitions > self._spec.input.partitions and name not in self._hinted:
                self._hinted.add(name)
                logger.info(
                    "%s has %d partitions, all of which are read; declare input.partitions: %d so that as many consumers may run",
                    name,
                    topic.partitions,
                    topic.partitions,
                )

    def _find(self, asked: Mapping[Partition, int]) -> None:
        found: dict[Partition, StartOffset | Held] = {p: why for p in asked if (why := self._out_of_reach(p)) is not None}
        if there := [p for p in asked if p not in found]:
            found |= self._finder.places(there, self._topics)
        # Before anything of them is committed: so another member sees that this is a first start.
        uncommitted = {
            p.topic for p, what in found.items() if isinstance(what, StartOffset) and what.why is not StartReason.COMMITTED
        }
        self._finder.note({name: self._topics[name] for name in uncommitted}, {})
        with self._lock:
            for partition, what in found.items():
                if self._asked.get(partition) != asked[partition]:
                    continue  # lost, or asked for anew
                self._answers.append(Placement(partition, asked[partition], what))
                if isinstance(what, StartOffset):
                    del self._asked[partition]
        news = {partition: what for partition, what in found.items() if self._reported.get(partition) != what}
        odd = any(isinstance(what, Held) or what.why in (StartReason.GAP, StartReason.ANOTHER_TOPIC) for what in news.values())
        if news:
            logger.log(logging.WARNING if odd else logging.INFO, "%s: %s", self._group, labelled(sorted(news.items())))
        self._reported |= news

    def _out_of_reach(self, partition: Partition) -> Held | None:
        topic = self._topics.get(partition.topic)
        if topic is None or partition.number >= topic.partitions:
            return Held("its topic is gone", passing=True)
        return Held("it has no leader: a broker is away", passing=True) if partition in self._leaderless else None

    def _note_begun(self, begun: Mapping[Partition, str]) -> None:
        """What is read goes on being read where the notes can't be reached: it is committed."""
        try:
            self._finder.note(self._topics, begun)
        except HeadraceError as error:
            logger.warning("%s: what has begun is noted later: %s", self._group, error)
            self._note_s = time.monotonic() + NOTE_AGAIN_S
            return
        with self._lock:
            self._unnoted = {p: topic_id for p, topic_id in self._unnoted.items() if begun.get(p) != topic_id}

    def _look_at_ends(self, read: Mapping[Partition, str]) -> None:
        parts = {partition: TopicPartition(*partition) for partition in read if self._out_of_reach(partition) is None}
        if not parts:
            return
        latest = dict.fromkeys(parts.values(), OffsetSpec.LATEST)
        readable = self._admin.client.list_partition_offsets(latest, isolation_level="read_committed")
        written = self._admin.client.list_partition_offsets(latest)
        now_s = time.time()
        with self._lock:
            for partition, part in parts.items():
                if partition not in self._read:
                    continue
                ends = Ends(readable[part].offset, max(written[part].offset, readable[part].offset), now_s)
                before = self._ends.get(partition)
                stuck = before is not None and before.readable == ends.readable and before.written > before.readable
                self._ends[partition] = replace(ends, since_s=before.since_s) if before is not None and stuck else ends
