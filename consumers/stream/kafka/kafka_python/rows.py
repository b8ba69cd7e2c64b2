"""Whole record batches read through kafka-python, which gives them a record at a time.

What it does with batches stays its own: fetching, checking, transactions. Only the records inside are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kafka import IsolationLevel, KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.consumer.fetcher import Fetcher  # type: ignore[import-untyped]
from kafka.errors import CorruptRecordError  # type: ignore[import-untyped]
from kafka.record.default_records import DefaultRecordBatch  # type: ignore[import-untyped]
from kafka.record.legacy_records import LegacyRecordBatch  # type: ignore[import-untyped]
from kafka.record.memory_records import MemoryRecords  # type: ignore[import-untyped]

from consumers.stream.kafka.kafka_python.inside import next_slice, read_with, step_over_slice
from consumers.stream.kafka.kafka_python.record_batch import FORMAT, HEADER_BYTES, Row, read_rows

MAGIC_AT = MemoryRecords.MAGIC_OFFSET


def read_by_rows(consumer: KafkaConsumer) -> None:
    """From now on its `poll` returns rows."""
    read_with(consumer, RowsOfPartition)


class WholeBatch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python is untyped
    """A batch that lies in what was fetched: kafka-python's own copies it first."""

    __slots__ = ("_begin", "_data", "whole")

    def __init__(self, data: bytes, begin: int, end: int) -> None:
        self._data, self._begin = data, begin
        self.whole = memoryview(data)[begin:end]
        super().__init__(self.whole[:HEADER_BYTES])
        self._buffer = self.whole  # type: ignore[misc]  # a slot of the class above

    def records(self) -> tuple[bytes, int, int]:
        """Where its records are: in which bytes, from where, to where."""
        if self.compression_type == self.CODEC_NONE:
            return self._data, self._begin + HEADER_BYTES, self._begin + len(self.whole)
        self._maybe_uncompress()
        plain = bytes(self._buffer)
        return plain, 0, len(plain)


class RowsOfPartition(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python is untyped
    """What one fetch brought of a partition, handed out as rows."""

    next_fetch_offset: int

    def take(self, n: int | None = None) -> list[Row]:
        """Up to n rows. Raises CorruptRecordError where the next can't be read."""
        rows: list[Row] = super().take(n)
        if rows:
            self.next_fetch_offset = max(self.next_fetch_offset, rows[-1].offset + 1)
        return rows

    def _unpack_records(self, tp: TopicPartition, records: MemoryRecords, *_: object) -> Iterator[Row]:
        while (batch := _next_batch(records)) is not None:
            if self.check_crcs and not batch.validate_crc():
                raise CorruptRecordError(f"the record batch of {tp} at offset {batch.base_offset} fails its check")
            self.bytes_read += batch.size_in_bytes
            if batch.magic < FORMAT:
                yield from self._one_by_one(batch)
                continue
            self.leader_epoch = batch.leader_epoch
            if not self._is_for_nobody(batch):
                yield from self._rows(batch)
            self.next_fetch_offset = batch.next_offset  # past records that the broker has compacted away, too
        self.drain()

    def _is_for_nobody(self, batch: DefaultRecordBatch) -> bool:
        """Whether it is a transaction marker, or was given up."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)

    def _rows(self, batch: WholeBatch) -> Iterable[Row]:
        try:
            data, begin, end = batch.records()
            return read_rows(
                data,
                begin,
                end,
                batch.records_count,
                offset=batch.base_offset,
                first_ms=batch.first_timestamp,
                appended_ms=batch.max_timestamp if batch.timestamp_type else None,
            )
        except (ValueError, IndexError):
            return self._one_by_one(DefaultRecordBatch(batch.whole))  # which tells at which record

    def _one_by_one(self, batch: Any) -> Iterator[Row]:
        for record in batch:
            if self.check_crcs and not record.validate_crc():
                raise CorruptRecordError(f"the record of {self.topic_partition} at offset {record.offset} fails its check")
            self.next_fetch_offset = record.offset + 1
            yield Row(record.offset, record.timestamp, record.key, record.value, record.headers)


def _next_batch(records: MemoryRecords) -> WholeBatch | LegacyRecordBatch | None:
    following = next_slice(records)
    if following is None:
        return None
    data, batch, end = following
    if len(batch) < HEADER_BYTES or batch[MAGIC_AT] < FORMAT:
        return records.next_batch()
    step_over_slice(records)
    return WholeBatch(data, end - len(batch), end)
