"""The topics that a stream writes: over how many partitions of each it spreads what it writes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cluster.errors import NotFound, Unreachable
from consumers.stream.kafka.admin import Admin
from consumers.stream.kafka.kafka_python.client import topics_of
from consumers.stream.log.starts import Notes, new_notes, read_memory
from consumers.stream.spec import StreamSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WrittenTopics:
    """As many partitions of each topic as it had when the stream first wrote to it: so a key stays where it is when it grows."""

    partitions: Mapping[str, int]

    @classmethod
    def find(cls, spec: StreamSpec, admin: Admin, group: str, notes: Notes) -> Self:
        """Asks the broker. Blocks; raises NotFound, Unreachable, and as `notes` do."""
        names = [spec.output.topic, spec.dead_letters.topic]
        with admin.asking() as client:
            found = topics_of(client, names)
        for name in names:
            if name not in found:
                raise _missing(name)
        declared = {topic.topic: topic.partitions for topic in (spec.output, spec.dead_letters)}
        try:
            memory = read_memory(group, notes.load())
            if lacking := new_notes(group, memory, found, {}):
                notes.add(lacking)
        except Unreachable:
            if any(topic.partitions != declared[name] for name, topic in found.items()):
                raise
            return cls(declared)  # none of them has grown
        partitions: dict[str, int] = {}
        for name, topic in found.items():
            known = memory.topics.get(name)
            partitions[name] = known.partitions if known is not None and known.id == topic.id else topic.partitions
            if partitions[name] < topic.partitions:
                logger.info(
                    "%s has %d partitions; answers keep to the first %d of them", name, topic.partitions, partitions[name]
                )
        return cls(partitions)

    def partitions_of(self, topic: str) -> int:
        """Raises NotFound where the stream does not write this topic."""
        found = self.partitions.get(topic)
        if found is None:
            raise _missing(topic)
        return found


def _missing(topic: str) -> NotFound:
    return NotFound("no such topic", where=topic, remedy="create it, or check the stream's document")
