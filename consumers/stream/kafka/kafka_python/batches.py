"""Whole record batches through kafka-python, which takes and gives them a record at a time (pinned below 3.1, as `kafka_inside`).

What it does with batches stays its own: fetching, checking, transactions, sequences, retries. Only the records inside are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any

from kafka import IsolationLevel, KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.consumer.fetcher import Fetcher  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    CorruptRecordError,
    IllegalStateError,
    InvalidRecordError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from kafka.producer.future import FutureRecordMetadata  # type: ignore[import-untyped]
from kafka.producer.producer_batch import ProducerBatch  # type: ignore[import-untyped]
from kafka.record.default_records import DefaultRecordBatch  # type: ignore[import-untyped]
from kafka.record.legacy_records import LegacyRecordBatch  # type: ignore[import-untyped]
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder  # type: ignore[import-untyped]

from consumers.stream.kafka.record_batch import Row, bodies, cuts, read_rows, written
from consumers.stream.log.port import Outgoing

FORMAT = 2
TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
REFUSALS = (InvalidRecordError, InvalidTimestampError, *TOO_LARGE)  # of a record for what it is
HEADER_BYTES = DefaultRecordBatch.HEADER_STRUCT.size
MAGIC_AT = MemoryRecords.MAGIC_OFFSET


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
        """Whether it is a transaction's mark, or was given up."""
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
    following = records._next_slice
    if following is None or len(following) < HEADER_BYTES or following[MAGIC_AT] < FORMAT:
        return records.next_batch()
    end = records._pos  # it is always one batch ahead
    records._cache_next()
    return WholeBatch(records._buffer, end - len(following), end)


def read_by_rows(consumer: KafkaConsumer) -> None:
    """From now on its `poll` returns rows."""
    consumer._fetcher.PartitionRecords = RowsOfPartition


def send(producer: KafkaProducer, outgoing: Sequence[Outgoing]) -> list[ProducerBatch]:
    """Hands the records to the producer, in order, and returns at once with the batches that they make. Raises KafkaError."""
    transactions = producer._transaction_manager
    sent: list[ProducerBatch] = []
    for (topic, number), group in groupby(sorted(outgoing, key=_to), key=_to):
        producer.partitions_for(topic)  # which waits until the client knows the topic
        partition, outs = TopicPartition(topic, number), list(group)
        if transactions is not None and transactions.is_transactional():
            transactions.maybe_add_partition_to_transaction(partition)
        times_ms = list(chain.from_iterable(out.timestamps_ms for out in outs))
        held = list(chain.from_iterable(bodies(out.keys, out.values, out.headers) for out in outs))
        for rows in cuts(held, producer.config["batch_size"] - HEADER_BYTES):
            sent.append(_enqueue(producer._accumulator, partition, held[rows], times_ms[rows]))
            producer._sender.wakeup()
    return sent


def expect_written(sent: Sequence[ProducerBatch]) -> None:
    """Raises KafkaError where one of the batches was not written. To be called once the producer was flushed.

    Of several errors the one that is about a record: the others may follow from it.
    """
    failures = [failure for batch in sent for failure in _failures(batch)]
    if failures:
        raise refusal_of(sent) or failures[0]


def refusal_of(sent: Sequence[ProducerBatch]) -> Exception | None:
    """Why a record of the batches was refused for what it is, if one was, and for which topic."""
    for batch in sent:
        for failure in _failures(batch) if batch.is_done else ():
            if isinstance(failure, REFUSALS):
                why = next(filter(None, failure.args), failure.description)
                refusal: Exception = type(failure)(f"{batch.topic_partition.topic}: {why}")
                return refusal
    return None


def _failures(batch: ProducerBatch) -> list[Exception]:
    """Why a batch was not written, by record: of those not at fault the client says that they were with others that are."""
    if not batch.is_done:  # it was split, and of its parts we know nothing
        return [MessageSizeTooLargeError(f"a batch for {batch.topic_partition} was larger than its topic takes")]
    _, _, failure = batch.produce_future.value
    return [failure(row) for row in range(batch.record_count)] if failure is not None else []


def _to(out: Outgoing) -> tuple[str, int]:
    return out.topic, out.partition


def _enqueue(accumulator: Any, partition: TopicPartition, held: Sequence[bytes], times_ms: Sequence[int]) -> ProducerBatch:
    """As `RecordAccumulator.append` does with a record that begins a batch."""
    compression = accumulator.config["compression_attrs"]
    records = MemoryRecordsBuilder(FORMAT, compression, accumulator.config["batch_size"], offset=len(held))
    inside = records._builder
    inside._buffer += written(held, times_ms)
    inside._num_records, inside._last_offset = len(held), len(held) - 1
    inside._first_timestamp, inside._max_timestamp = times_ms[0], max(times_ms)
    batch = ProducerBatch(partition, records)
    # Where it is split, since its topic takes less by now, this is what wakes those who wait for it.
    batch._record_futures.append(FutureRecordMetadata(batch.produce_future, 0, None, None, -1, -1, -1))
    accumulator._appends_in_progress.increment()
    try:
        with accumulator._tp_lock(partition):
            if accumulator._closed:
                raise IllegalStateError("the producer is closed")
            accumulator._batches[partition].append(batch)
            accumulator._incomplete.add(batch)
    finally:
        accumulator._appends_in_progress.decrement()
    return batch
