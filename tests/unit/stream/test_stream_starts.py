"""Where a partition begins: each rule with its right value."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumers.stream.log.port import Partition
from consumers.stream.log.starts import (
    Committed,
    Found,
    Held,
    Memory,
    NotesInProcess,
    SeenTopic,
    StartOffset,
    StartReason,
    committed,
    metadata_of,
    new_notes,
    notes_of,
    place,
    read_memory,
)
from consumers.stream.spec import Begin, StreamInput

EARLIEST, LATEST = StreamInput(topic="t"), StreamInput(topic="t", begin=Begin.LATEST)
NEVER = Memory({}, {})
T = SeenTopic("one", 4)
# It holds the records 100 to 499; nothing is committed.
FOUND = Found(T, None, False, 100, 500)
RAN = Memory({"t": T}, {Partition("t", n): "one" for n in range(4)})


def at(number: int, topic: str = "t") -> Partition:
    return Partition(topic, number)


def test_what_is_committed_is_where_it_begins() -> None:
    found = replace(FOUND, committed=Committed(300, "one"))
    assert place(at(0), found, RAN, LATEST, older=False) == StartOffset(300, StartReason.COMMITTED, "one")


def test_a_first_start_is_as_the_document_says() -> None:
    assert place(at(0), FOUND, NEVER, EARLIEST, older=False) == StartOffset(100, StartReason.FIRST_START, "one")
    assert place(at(0), FOUND, NEVER, LATEST, older=False) == StartOffset(500, StartReason.FIRST_START, "one")


def test_one_of_the_first_partitions_may_come_to_its_first_start_late() -> None:
    begun = Memory({"t": T}, {at(0): "one", at(1): "one"})
    assert place(at(3), FOUND, begun, LATEST, older=False) == StartOffset(500, StartReason.FIRST_START, "one")


def test_a_partition_that_is_added_begins_with_its_first_record() -> None:
    grown = replace(FOUND, topic=SeenTopic("one", 6))
    assert place(at(5), grown, RAN, LATEST, older=False) == StartOffset(100, StartReason.NEW_PARTITION, "one")


def test_a_topic_that_the_pattern_takes_in_later_begins_with_its_first_record() -> None:
    pattern = StreamInput(pattern="t.*", begin=Begin.LATEST)
    assert place(at(0, "t2"), FOUND, RAN, pattern, older=False) == StartOffset(100, StartReason.NEW_TOPIC, "one")


def test_a_topic_that_the_document_takes_in_later_begins_as_the_document_says() -> None:
    both = StreamInput(topics=("t", "t2"), begin=Begin.LATEST)
    assert place(at(0, "t2"), FOUND, RAN, both, older=False) == StartOffset(500, StartReason.FIRST_START, "one")


def test_what_retention_deleted_is_a_gap_that_is_told() -> None:
    found = replace(FOUND, committed=Committed(60, "one"))
    start = place(at(0), found, RAN, LATEST, older=False)
    assert start == StartOffset(100, StartReason.GAP, "one", missing=40)
    assert str(start) == "from 100: what was committed next exists no more; 40 offsets are missing"


@pytest.mark.parametrize("offset", [0, 300, 10_000])
def test_another_topic_of_the_name_begins_with_its_first_record(offset: int) -> None:
    """Whatever was committed of the other one, and whether the broker has dropped that."""
    anew = replace(FOUND, topic=SeenTopic("two", 4))
    first = StartOffset(100, StartReason.ANOTHER_TOPIC, "two")
    assert place(at(0), replace(anew, committed=Committed(offset, "one")), RAN, LATEST, older=False) == first
    assert place(at(0), replace(anew, committed=Committed(offset)), RAN, LATEST, older=False) == first
    assert place(at(0), anew, RAN, LATEST, older=False) == first
    # A partition of the old topic that no member came to.
    assert place(at(2), anew, Memory({"t": T}, {at(0): "one"}), LATEST, older=False) == first


def test_a_seek_into_the_new_topic_holds() -> None:
    anew = replace(FOUND, topic=SeenTopic("two", 4), committed=Committed(300, "two"))
    assert place(at(0), anew, RAN, LATEST, older=False) == StartOffset(300, StartReason.COMMITTED, "two")


def test_a_commit_that_is_gone_holds_the_partition() -> None:
    """As when a group rests for longer than the broker keeps commits: to begin anew would score everything twice."""
    for chosen in (EARLIEST, LATEST):
        held = place(at(0), FOUND, RAN, chosen, older=False)
        assert isinstance(held, Held)
        assert not held.passing


def test_a_commit_that_is_not_stable_holds_the_partition_for_a_while() -> None:
    """Also where nothing was ever committed before, so that none is told."""
    for memory in (NEVER, RAN):
        held = place(at(0), replace(FOUND, unstable=True), memory, EARLIEST, older=False)
        assert isinstance(held, Held)
        assert held.passing


def test_a_commit_past_the_end_holds_the_partition() -> None:
    held = place(at(0), replace(FOUND, committed=Committed(501, "one")), RAN, EARLIEST, older=False)
    assert isinstance(held, Held)
    assert "501" in held.reason


def test_a_group_of_an_older_headrace_skips_nothing() -> None:
    """It committed no start: where a partition had no record, it has no commit."""
    assert place(at(0), FOUND, NEVER, LATEST, older=True) == StartOffset(100, StartReason.NEW_PARTITION, "one")
    assert place(at(0), FOUND, Memory({"t": T}, {}), LATEST, older=True) == StartOffset(100, StartReason.NEW_PARTITION, "one")
    assert place(at(0), replace(FOUND, committed=committed(300, "")), NEVER, LATEST, older=True) == StartOffset(
        300, StartReason.COMMITTED, "one"
    )


def test_metadata_of_others_is_not_a_topics_id() -> None:
    assert committed(1, metadata_of("one")) == Committed(1, "one")
    assert committed(1, "checked by hand") == Committed(1)


def test_notes_are_read_as_they_were_written() -> None:
    notes = notes_of("g", {"t": T}, {at(0): "one", at(1, "a.b"): "two"})
    assert read_memory("g", notes) == Memory({"t": T}, {at(0): "one", at(1, "a.b"): "two"})
    assert read_memory("g2", notes) == NEVER


def test_only_what_is_new_is_noted() -> None:
    grown = {"t": SeenTopic("one", 6)}
    assert new_notes("g", RAN, grown, {at(0): "one"}) == {}
    assert new_notes("g", RAN, grown, {at(5): "one"}) == {"g/t/5": "one"}
    assert new_notes("g", RAN, {"t": SeenTopic("two", 6)}, {}) == {"g/t": "two/6"}


def test_notes_in_this_process_are_kept() -> None:
    notes = NotesInProcess()
    notes.add({"a": "1"})
    notes.add({"b": "2"})
    assert notes.load() == {"a": "1", "b": "2"}
