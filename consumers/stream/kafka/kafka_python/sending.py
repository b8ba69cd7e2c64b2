"""Whole record batches written through kafka-python, which takes them a record at a time.

What it does with batches stays its own: transactions, sequences, retries. Only the records inside are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby
from typing import TYPE_CHECKING

from kafka import KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    InvalidRecordError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from consumers.stream.kafka.kafka_python.inside import Sending
from consumers.stream.kafka.kafka_python.record_batch import HEADER_BYTES, bodies, cuts, written
from consumers.stream.log.port import Outgoing

if TYPE_CHECKING:
    from kafka.producer.producer_batch import ProducerBatch  # type: ignore[import-untyped]

TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
REFUSALS = (InvalidRecordError, InvalidTimestampError, *TOO_LARGE)  # of a record for what it is


def send(producer: KafkaProducer, outgoing: Sequence[Outgoing]) -> list[ProducerBatch]:
    """Hands the records to the producer, in order, and returns at once with the batches that they make. Raises KafkaError."""
    sending = Sending.of(producer)
    sent: list[ProducerBatch] = []
    for (topic, number), group in groupby(sorted(outgoing, key=_to), key=_to):
        producer.partitions_for(topic)  # which waits until the client knows the topic
        partition, outs = TopicPartition(topic, number), list(group)
        sending.add_partition(partition)
        times_ms = list(chain.from_iterable(out.timestamps_ms for out in outs))
        held = list(chain.from_iterable(bodies(out.keys, out.values, out.headers) for out in outs))
        for rows in cuts(held, producer.config["batch_size"] - HEADER_BYTES):
            sent.append(sending.enqueue(partition, written(held[rows], times_ms[rows]), times_ms[rows]))
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
