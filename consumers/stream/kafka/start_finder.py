"""Asks the broker where partitions begin, beside what the group remembers of topics that it has read before.

Through kafka-python whatever client the stream has: none of them says of a commit that is not yet stable that it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.admin import OffsetSpec  # type: ignore[import-untyped]

from consumers.stream.kafka.admin import Admin
from consumers.stream.kafka.kafka_python.inside import stable_offsets
from consumers.stream.log.port import Partition
from consumers.stream.log.starts import (
    Found,
    Held,
    Memory,
    Notes,
    SeenTopic,
    StartOffset,
    committed,
    new_notes,
    place,
    read_memory,
)
from consumers.stream.spec import StreamInput


class StartFinder:
    """Of one group. Used from one thread, which it blocks; call it within `admin.asking()`, which says what it may raise."""

    def __init__(self, reads: StreamInput, admin: Admin, group: str, notes: Notes) -> None:
        self._input, self._admin, self._group, self._notes = reads, admin, group, notes
        self._remembered: dict[str, str] | None = None

    def places(self, partitions: Sequence[Partition], topics: Mapping[str, SeenTopic]) -> dict[Partition, StartOffset | Held]:
        """Where each of them begins, or why that can't be told. `topics` has those that they are of."""
        parts = {partition: TopicPartition(*partition) for partition in partitions}
        offsets = stable_offsets(self._admin.client, self._group, list(parts.values()))
        lacking = any(each.offset is None and not each.unstable for each in offsets.values())
        older = lacking and any(not committed(offset, metadata).topic_id for offset, metadata in self._of_the_input())
        memory = Memory({}, {})
        if lacking or not all(
            committed(each.offset, each.metadata).topic_id for each in offsets.values() if each.offset is not None
        ):
            self._remembered = None  # other members may have noted more
            memory = read_memory(self._group, self._memory())
        first = self._admin.client.list_partition_offsets(dict.fromkeys(parts.values(), OffsetSpec.EARLIEST))
        end = self._admin.client.list_partition_offsets(dict.fromkeys(parts.values(), OffsetSpec.LATEST))
        found: dict[Partition, StartOffset | Held] = {}
        for partition, part in parts.items():
            stable = offsets[part]
            commit = committed(stable.offset, stable.metadata) if stable.offset is not None else None
            seen = Found(topics[partition.topic], commit, stable.unstable, first[part].offset, end[part].offset)
            found[partition] = place(partition, seen, memory, self._input, older=older)
        return found

    def _of_the_input(self) -> list[tuple[int, str]]:
        """All that the group has committed of what the stream reads, with its metadata."""
        offsets = stable_offsets(self._admin.client, self._group, None)
        ours = [each for part, each in offsets.items() if self._input.reads(part.topic)]
        return [(each.offset, each.metadata) for each in ours if each.offset is not None]

    def note(self, topics: Mapping[str, SeenTopic], begun: Mapping[Partition, str]) -> None:
        """Remembers that these topics are read, and which partitions have begun, with their topic's id. Raises HeadraceError
        where the notes can't be reached."""
        if not topics:
            return
        notes = new_notes(self._group, read_memory(self._group, self._memory()), topics, begun)
        if notes:
            self._notes.add(notes)
            self._memory().update(notes)

    def _memory(self) -> dict[str, str]:
        if self._remembered is None:
            self._remembered = dict(self._notes.load())
        return self._remembered
