"""Writing and committing through kafka-python. A producer is thread-safe: a thread of its own commits."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from kafka import KafkaProducer  # type: ignore[import-untyped]
from kafka.errors import KafkaError, UnknownError  # type: ignore[import-untyped]

from consumers.stream.kafka.kafka_python.client import ROOM_BYTES, client_config
from consumers.stream.kafka.kafka_python.errors import KafkaErrors
from consumers.stream.kafka.kafka_python.inside import abandon
from consumers.stream.kafka.kafka_python.offsets import to_client
from consumers.stream.kafka.kafka_python.sending import expect_written, refusal_of, send
from consumers.stream.kafka.member import Offsets
from consumers.stream.log.port import Member, Outgoing
from consumers.stream.spec import Guarantee, StreamSpec

CALL_TIMEOUT_S = 20.0
BATCH_BYTES = 256 * 1024
# Each transaction that follows another at once is first refused, until the broker has written the markers of the last one.
RETRY_BACKOFF_MS = 5


class KafkaWriter:
    """See GroupWriter."""

    def __init__(self, spec: StreamSpec, brokers: str, member: Member, translating: KafkaErrors) -> None:
        self._spec, self._member, self._translating = spec, member, translating
        self._config = client_config(brokers, spec.security)
        self._producer: KafkaProducer | None = None

    def open(self, largest_bytes: int) -> None:
        """See GroupWriter."""
        exactly_once = self._spec.guarantee is Guarantee.EXACTLY_ONCE
        timeout_ms = int(self._spec.transaction_timeout_s * 1000)
        named = {"transactional_id": self._member.transactional_id, "transaction_timeout_ms": timeout_ms} if exactly_once else {}
        with self._translating():
            producer = KafkaProducer(
                **self._config,
                **named,
                linger_ms=2,
                retry_backoff_ms=RETRY_BACKOFF_MS,
                # A batch must fit too, not only a record.
                batch_size=min(BATCH_BYTES, largest_bytes),
                max_request_size=self._spec.max_record_bytes + 2 * ROOM_BYTES,
                max_block_ms=int(CALL_TIMEOUT_S * 1000),
                bootstrap_timeout_ms=int(CALL_TIMEOUT_S * 1000),
                metrics_enabled=False,
            )
            if exactly_once:
                try:
                    producer.init_transactions()
                except BaseException:
                    abandon(producer)
                    raise
        self._producer = producer

    def drop(self) -> None:
        """See GroupWriter."""
        producer, self._producer = self._producer, None
        if producer is not None:
            abandon(producer)

    def transaction(self, outgoing: Sequence[Outgoing], offsets: Offsets, group: object) -> None:
        """See GroupWriter."""
        producer = self._open_producer()
        with self._translating(committing=True):
            producer.begin_transaction()
            sent = send(producer, outgoing)
            try:
                producer.send_offsets_to_transaction(to_client(offsets), group)
                self._flush(producer)
            except KafkaError as error:
                raise refusal_of(sent) or error from error
            expect_written(sent)  # a commit of what is refused may never end
            producer.commit_transaction()

    def write(self, outgoing: Sequence[Outgoing]) -> None:
        """See GroupWriter."""
        producer = self._open_producer()
        with self._translating():
            sent = send(producer, outgoing)
            self._flush(producer)
            expect_written(sent)

    def _open_producer(self) -> KafkaProducer:
        producer = self._producer
        assert producer is not None  # noqa: S101  # a commit follows a recover that succeeded
        return producer

    def _flush(self, producer: KafkaProducer) -> None:
        with contextlib.suppress(UnknownError):  # of a batch that was split: `expect_written` tells
            producer.flush(timeout=self._spec.transaction_timeout_s)
