"""Partitions read by rows, against kafka-python's own reading of the same bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import IsolationLevel, TopicPartition  # type: ignore[import-untyped]
from kafka.consumer.fetcher import Fetcher  # type: ignore[import-untyped]
from kafka.errors import CorruptRecordError  # type: ignore[import-untyped]
from kafka.record.default_records import DefaultRecordBatchBuilder  # type: ignore[import-untyped]
from kafka.record.legacy_records import LegacyRecordBatchBuilder  # type: ignore[import-untyped]
from kafka.record.memory_records import MemoryRecords  # type: ignore[import-untyped]

from consumers.stream.kafka.kafka_python.record_batch import HEADER_BYTES
from consumers.stream.kafka.kafka_python.rows import RowsOfPartition

PARTITION = TopicPartition("in", 3)
FIRST_MS = 1_700_000_000_000
GZIP = 1
Seen = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]


@dataclass(frozen=True)
class Made:
    """A batch to be. `mark`: it ends a transaction, with 0 for one that was given up and 1 for one that was committed."""

    values: Sequence[bytes | None]
    producer: int = -1
    mark: int | None = None
    gzip: bool = False
    appended: bool = False
    compacted: int = 0


class Builder(DefaultRecordBatchBuilder):  # type: ignore[misc]
    """Which also makes what only brokers make."""

    attributes = 0

    def _get_attributes(self, include_compression_type: bool = True) -> int:
        return int(super()._get_attributes(include_compression_type)) | self.attributes


def log_of(batches: Sequence[Made]) -> bytes:
    data, offset = b"", 0
    for made in batches:
        epoch = 0 if made.producer >= 0 else -1
        builder = Builder(2, GZIP if made.gzip else 0, made.producer >= 0, made.producer, epoch, epoch, 2**30)
        builder.attributes = (0x20 if made.mark is not None else 0) | (0x08 if made.appended else 0)
        if made.mark is not None:
            builder.append(0, FIRST_MS, struct.pack(">hh", 0, made.mark), struct.pack(">hi", 0, 0), [])
        for number, value in enumerate(made.values):
            builder.append(number, FIRST_MS + 3 * number, b"key" if value else None, value, [("h", value)] * (number % 3))
        builder._last_offset += made.compacted
        batch = builder.build()
        struct.pack_into(">q", batch, 0, offset)
        offset += builder._last_offset + 1
        data += bytes(batch)
    return data


def read(kind: type[Any], data: bytes, fetch_offset: int, aborted: Sequence[tuple[int, int]], most: int) -> list[object]:
    """What it hands out, `most` at a time, with where the next fetch would begin."""
    given_up = [SimpleNamespace(producer_id=producer, first_offset=offset) for producer, offset in aborted]
    part = kind(
        fetch_offset,
        PARTITION,
        MemoryRecords(data),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=given_up,
    )
    told: list[object] = []
    while part:
        try:
            taken = part.take(most)
        except CorruptRecordError:
            told.append(("corrupt", part.next_fetch_offset))
            break
        told += [(r[0], r[1], *r[2:4], list(r[4])) if kind is RowsOfPartition else seen(r) for r in taken]
        if not taken:
            told.append(part.next_fetch_offset)
    return [*told, part.next_fetch_offset, part.leader_epoch]


def seen(record: Any) -> Seen:
    return record.offset, record.timestamp, record.key, record.value, list(record.headers)


values = st.lists(st.none() | st.binary(max_size=200), min_size=1, max_size=12)
batches = st.builds(
    Made, values, st.sampled_from([-1, 7, 8]), st.none(), st.booleans(), st.booleans(), st.integers(0, 2)
) | st.builds(Made, st.just([]), st.sampled_from([7, 8]), st.sampled_from([0, 1]))
aborted = st.lists(st.tuples(st.sampled_from([7, 8]), st.integers(0, 30)), max_size=3)


@pytest.mark.thorough
@given(st.lists(batches, min_size=1, max_size=6), st.integers(0, 20), aborted, st.integers(1, 15))
def test_rows_are_the_records_that_the_client_finds(
    made: list[Made], fetch_offset: int, given_up: list[tuple[int, int]], most: int
) -> None:
    data = log_of(made)
    expected = read(Fetcher.PartitionRecords, data, fetch_offset, given_up, most)
    assert read(RowsOfPartition, data, fetch_offset, given_up, most) == expected


def test_old_formats_are_read_too() -> None:
    builder = LegacyRecordBatchBuilder(magic=1, compression_type=0, batch_size=10_000)
    for number in range(3):
        builder.append(number, timestamp=FIRST_MS, key=b"k", value=b"v")
    data = bytes(builder.build())
    found = read(RowsOfPartition, data, 0, [], 2)
    assert found == read(Fetcher.PartitionRecords, data, 0, [], 2)
    assert found[:1] == [(0, FIRST_MS, b"k", b"v", [])]


def broken_at(data: bytes, at: int, byte: int) -> bytes:
    """With a check that holds: the writer made it so."""
    from kafka.record.util import calc_crc32c  # type: ignore[import-untyped]

    changed = bytearray(data)
    changed[at] = byte
    struct.pack_into(">I", changed, 17, calc_crc32c(memoryview(changed)[21:]))
    return bytes(changed)


@pytest.mark.parametrize("most", [1, 2, 10])
def test_what_can_not_be_read_is_told_where_the_client_tells_it(most: int) -> None:
    good = log_of([Made([b"a", b"b", b"c"])])
    second = HEADER_BYTES + len(log_of([Made([b"a"])])) - HEADER_BYTES
    for data in (broken_at(good, second, 0x7E), good[:HEADER_BYTES] + b"\xff" + good[HEADER_BYTES + 1 :]):
        found = read(RowsOfPartition, data, 0, [], most)
        assert found == read(Fetcher.PartitionRecords, data, 0, [], most)
        assert any(isinstance(each, tuple) and each[0] == "corrupt" for each in found)
