"""What librdkafka raises while a stream's member reads and writes, as errors of the log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from confluent_kafka import KafkaError, KafkaException

from cluster.errors import Conflict
from consumers.stream.kafka.broker_errors import asker_of, unreachable
from consumers.stream.kafka.commit_thread import record_refused
from consumers.stream.kafka.librdkafka import codes
from consumers.stream.kafka.librdkafka.statistics import ClientStatistics
from consumers.stream.log.port import Member
from consumers.stream.spec import StreamSpec

TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
REFUSALS = (KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP, *TOO_LARGE)  # of a record for what it is
NAME_TAKEN = (KafkaError.FENCED_INSTANCE_ID, codes.FATAL)
FENCED = (codes.FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)


class RdKafkaErrors:
    """Of one member. `fenced`: a producer of its name took its transactions. `on_refusal`: the broker refused a record."""

    def __init__(
        self, spec: StreamSpec, brokers: str, member: Member, statistics: ClientStatistics, on_refusal: Callable[[], None]
    ) -> None:
        self._brokers, self._member, self._statistics, self._on_refusal = brokers, member, statistics, on_refusal
        self._asker = asker_of(spec, member)
        self.fenced = False

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Around calls of the client. Raises Conflict, RecordRefused and Unreachable."""
        try:
            yield
        except KafkaException as error:
            raised = error.args[0]
            cause = self._statistics.fatal if raised.code() == codes.FATAL and self._statistics.fatal is not None else raised
            if cause.code() in NAME_TAKEN and "group.instance.id" in cause.str():
                raise Conflict(
                    "another member of this name took over", where=self._member.instance, remedy="end this one"
                ) from error
            if cause.code() in FENCED:
                self.fenced = True
            if cause.code() in REFUSALS:
                self._on_refusal()
                too_large = cause.code() in TOO_LARGE
                raise record_refused(f"{cause.name()}: {cause.str()}", self._brokers, too_large=too_large) from error
            raise unreachable(self._brokers, error, self._asker) from error
