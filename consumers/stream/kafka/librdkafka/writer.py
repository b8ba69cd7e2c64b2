"""Writing and committing through librdkafka, whose own thread sends. A thread of ours commits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cluster.errors import Unreachable
from consumers.stream.kafka.librdkafka import codes
from consumers.stream.kafka.librdkafka.batches import send
from consumers.stream.kafka.librdkafka.config import producer_config, rdkafka_config
from consumers.stream.kafka.librdkafka.errors import REFUSALS, RdKafkaErrors
from consumers.stream.kafka.librdkafka.offsets import to_client
from consumers.stream.kafka.member import Offsets
from consumers.stream.log.port import Member, Outgoing
from consumers.stream.spec import Guarantee, StreamSpec

CALL_TIMEOUT_S = 20.0

logger = logging.getLogger(__name__)


class RdKafkaWriter:
    """See GroupWriter."""

    def __init__(self, spec: StreamSpec, brokers: str, member: Member, translating: RdKafkaErrors) -> None:
        self._spec, self._brokers, self._member, self._translating = spec, brokers, member, translating
        self._config = rdkafka_config(brokers, spec.security)
        self._producer: Producer | None = None
        self._failed_sends: list[KafkaError] = []

    def open(self, largest_bytes: int) -> None:
        """See GroupWriter."""
        exactly_once = self._spec.guarantee is Guarantee.EXACTLY_ONCE
        reported = {} if exactly_once else {"on_delivery": self._on_failed_send, "delivery.report.only.error": True}
        config = {**self._config, **producer_config(self._spec, self._member, largest_bytes), **reported}
        with self._translating():
            producer = Producer(config, logger=logger)
            if exactly_once:
                producer.init_transactions(CALL_TIMEOUT_S)
        self._producer = producer

    def drop(self) -> None:
        """See GroupWriter. A commit that hangs in it ends by its own time limit."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException):
                producer.purge()

    def transaction(self, outgoing: Sequence[Outgoing], offsets: Offsets, group: object) -> None:
        """See GroupWriter."""
        producer, timeout_s = self._open_producer(), self._spec.transaction_timeout_s
        with self._translating():
            parts = to_client(offsets)
            producer.begin_transaction()
            # First: this is what waits for the markers of the last transaction; a send that meets them is held for 20 ms.
            producer.send_offsets_to_transaction(parts, group, timeout_s)
            try:
                send(producer, outgoing)
            except KafkaException as error:
                # The transaction has failed meanwhile: any call but a send says why.
                if error.args[0].code() == codes.STATE:
                    producer.send_offsets_to_transaction(parts, group, timeout_s)
                raise
            producer.commit_transaction(timeout_s)

    def write(self, outgoing: Sequence[Outgoing]) -> None:
        """See GroupWriter."""
        producer = self._open_producer()
        with self._translating():
            self._failed_sends.clear()
            send(producer, outgoing)
            left = producer.flush(self._spec.transaction_timeout_s)
            if self._failed_sends:
                failures = [error for error in self._failed_sends if error.code() in REFUSALS] or self._failed_sends
                raise KafkaException(failures[0])
            if left:
                raise Unreachable(f"{left} records were not written in time", where=self._brokers, remedy="look at the broker")

    def _open_producer(self) -> Producer:
        producer = self._producer
        assert producer is not None  # noqa: S101  # a commit follows a recover that succeeded
        return producer

    def _on_failed_send(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed_sends.append(error)
