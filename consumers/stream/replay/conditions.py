"""Which records a replay takes: those of a stretch, or the dead letters that conditions choose, as they were before they died."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from cluster.errors import BadInput
from consumers.stream.log.port import Header, Origins, Partition, Records, subset
from consumers.stream.outgoing.acceptable import MADE_KEY_HEADER, TIMESTAMP_HEADER, VALUE_BYTES_HEADER
from consumers.stream.outgoing.answers import CONNECT
from consumers.stream.spec import StreamInput, StreamSpec

OF_ITS_DEATH = (VALUE_BYTES_HEADER, MADE_KEY_HEADER, TIMESTAMP_HEADER)
REPLAY_HEADER = "headrace.replay"
Choose = Callable[[Records], list[Records]]


class DeadLetterField(StrEnum):
    """What a condition may ask of a dead letter, and the header that tells it."""

    TOPIC = "topic"
    PARTITION = "partition"
    STAGE = "stage"
    EXCEPTION = "exception.class.name"
    MESSAGE = "exception.message"


class DeadLetterCondition(Protocol):
    """What a dead letter must be like to be taken."""

    def holds(self, headers: Mapping[str, bytes | None]) -> bool:
        """Whether it holds for a dead letter's headers."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a dead letter: FIELD=TEXT, FIELD!=TEXT, or FIELD~REGEX (found anywhere)."""

    field: DeadLetterField
    operator: str
    text: str

    @classmethod
    def parse(cls, written: str) -> Condition:
        """Raises BadInput."""
        names = {field.name.lower(): field for field in DeadLetterField}
        match = re.match(r"^(\w+)(!=|=|~)(.*)$", written, re.DOTALL)
        if match is None or match[1] not in names:
            how = f"write FIELD=TEXT, FIELD!=TEXT or FIELD~REGEX; fields: {', '.join(names)}"
            raise BadInput("no condition", where=f"--where {written}", remedy=how)
        if match[2] == "~":
            try:
                re.compile(match[3])
            except re.error as error:
                raise BadInput(f"no regular expression: {error}", where=f"--where {written}") from error
        return cls(names[match[1]], match[2], match[3])

    def holds(self, headers: Mapping[str, bytes | None]) -> bool:
        """Whether it holds for a dead letter's headers."""
        found = (headers.get(CONNECT + self.field) or b"").decode(errors="replace")
        if self.operator == "~":
            return re.search(self.text, found) is not None
        return (found == self.text) is (self.operator == "=")


def spec_of_replay(spec: StreamSpec, name: str, replay: str, *, of_dead_letters: bool, to_topic: str | None) -> StreamSpec:
    """The stream's document as its replay runs it: a group of its own, its output elsewhere where asked. Raises BadInput."""
    given, dead = spec.input, spec.dead_letters
    if of_dead_letters:
        what: dict[str, Any] = {"topic": dead.topic, "topics": (), "pattern": "", "partitions": dead.partitions}
        if given.decrypt is not None:  # dead letters hold what was encrypted for the input
            what["decrypt"] = given.decrypt.model_copy(update={"topic": given.decrypt.topic or given.topic}).model_dump()
        given = StreamInput.model_validate(given.model_dump() | what)
    output = spec.output.model_copy(update={"topic": to_topic}) if to_topic else spec.output
    if given.reads(output.topic):
        raise BadInput(f"{output.topic} is what the replay reads", where="--to-topic", remedy="name another topic")
    # Its own dead letters join those that it reads, beyond the end that it goes to.
    return spec.model_copy(update={"input": given, "output": output, "group": f"{spec.group_of(name)}-replay-{replay}"})


def dead_letters(conditions: Sequence[DeadLetterCondition], only: Mapping[Partition, Collection[int]] | None = None) -> Choose:
    """What died, as it was before: where it came from, without the headers of its death. Order per origin is kept.

    With `only`, those at these offsets of their own topic alone.
    """

    def choose(records: Records) -> list[Records]:
        rows: dict[Partition, list[int]] = {}
        offsets: dict[Partition, list[int]] = {}
        headers: list[Sequence[Header]] = []
        keys, times_ms = list(records.keys), list(records.timestamps_ms)
        for row, headers_of_one in enumerate(records.headers):
            about = dict(headers_of_one)
            origin, offset = _origin(about, records, row)
            headers.append(
                [header for header in headers_of_one if not header[0].startswith(CONNECT) and header[0] not in OF_ITS_DEATH]
            )
            if MADE_KEY_HEADER in about:
                keys[row] = None
            if re.fullmatch(rb"-?\d{1,18}", about.get(TIMESTAMP_HEADER) or b""):
                times_ms[row] = int(about[TIMESTAMP_HEADER] or b"")
            wanted = only is None or records.offsets[row] in only.get(records.partition, ())
            if wanted and all(condition.holds(about) for condition in conditions):
                rows.setdefault(origin, []).append(row)
                offsets.setdefault(origin, []).append(offset)
        bare = replace(records, headers=headers, keys=keys, timestamps_ms=times_ms)
        return [replace(subset(bare, chosen), origins=Origins(origin, offsets[origin])) for origin, chosen in rows.items()]

    return choose


def everything(records: Records) -> list[Records]:
    """All records of a stretch."""
    return [records]


def _origin(about: Mapping[str, bytes | None], records: Records, row: int) -> tuple[Partition, int]:
    try:
        topic = (about[f"{CONNECT}topic"] or b"").decode()
        return Partition(topic, int(about[f"{CONNECT}partition"] or b"")), int(about[f"{CONNECT}offset"] or b"")
    except (KeyError, ValueError):  # somebody else's: it is its own origin
        return records.partition, records.offsets[row]
