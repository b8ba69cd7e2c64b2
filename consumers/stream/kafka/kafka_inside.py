"""What kafka-python knows and does not say: where we look inside it (pinned below 3.1), with `kafka_batches`.

It polls in vain where its broker is away, or a topic may not be seen; where another member took its name, it only stops its
heartbeats; a rebalance that ends between two polls it forgets; where a record can't be read, it does not tell which; a producer
with unsent records can't be thrown away; and its debug log would tell the password.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.coordinator.base import MemberState  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaTimeoutError,
    RebalanceInProgressError,
    TopicAuthorizationFailedError,
    UnknownMemberIdError,
)
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslBytesRequest  # type: ignore[import-untyped]

from cluster.errors import Conflict

ASK_EVERY_S = 1.0
REQUEST_LOGGERS = ("kafka.protocol.parser", "kafka.net.connection")


class Membership:
    """One consumer's place in its group. `limit_s` is how long the broker may leave heartbeats unanswered. Not thread-safe."""

    def __init__(self, consumer: KafkaConsumer, limit_s: float) -> None:
        self._consumer = consumer
        self._coordinator = consumer._coordinator
        self._limit_s = limit_s
        self._asked_s = 0.0

    @property
    def settled(self) -> bool:
        """Whether no rebalance is under way, as far as this member knows."""
        return bool(self._consumer.group_metadata().state is MemberState.STABLE)

    @property
    def silent_s(self) -> float:
        """For how long the group's broker has not answered."""
        heartbeat = self._coordinator.heartbeat
        return float(time.monotonic() - max(heartbeat.last_receive, heartbeat.last_reset))

    def trouble(self) -> str:
        """Why no records can come; empty where all is well. Asks nobody."""
        metadata = self._consumer.group_metadata()
        if metadata.generation_id < 0:
            return f"joining the group {metadata.group_id}"
        silent_s = self.silent_s
        return f"the broker has not answered the group's heartbeat for {silent_s:.0f} s" if silent_s > self._limit_s else ""

    def look(self) -> None:
        """To be called before each poll, in its thread: sees to it that no rebalance is lost.

        Asks whether the name is still ours, but only in trouble, and once a second at most. Raises as `check_name`, and
        KafkaError where a topic may not be seen.
        """
        cluster = self._consumer._cluster
        if cluster.unauthorized_topics:
            cluster.request_update()  # the right may be given meanwhile
            raise TopicAuthorizationFailedError(cluster.unauthorized_topics)
        join = self._coordinator._join_task
        if join is not None and not isinstance(join, _KeptJoin):
            self._coordinator._join_task = _KeptJoin(join)
        now_s = time.monotonic()
        if self.silent_s > self._limit_s and now_s - self._asked_s > ASK_EVERY_S:
            self._asked_s = now_s
            self.check_name()

    def check_name(self) -> None:
        """Asks the broker. Raises Conflict where another member took this one's name, and KafkaError where it can't be asked."""
        coordinator = self._coordinator
        if not self.settled or coordinator.coordinator_id is None:
            return  # the next poll joins, which is refused where the name is taken
        try:
            coordinator._net.run(coordinator._send_heartbeat_request)
        except FencedInstanceIdError as error:
            raise Conflict(
                "another member of this name took over", where=coordinator.group_instance_id, remedy="end this one"
            ) from error
        except (RebalanceInProgressError, IllegalGenerationError, UnknownMemberIdError):
            return  # the next poll joins again


class _KeptJoin:
    """A join that is not taken for done before a poll has its result.

    Of one that was done as the poll began the client forgets the result and joins anew, at which all others have to as well: two
    members that were polled in turn did this for ever (kafka-python 3.0.12). Of a join that failed the poll raises the error: a
    KafkaError makes the client forget the join, anything else ends the worker, and the client with it.
    """

    is_done = False

    def __init__(self, join: Any) -> None:
        self._join = join

    def __await__(self) -> Any:
        return self._join.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._join, name)


def abandon(producer: KafkaProducer) -> None:
    """Ends a producer without what is still in it.

    Its own close waits for that first, and where the broker is away raises and leaves its thread running.
    """
    producer._sender.force_close()
    with contextlib.suppress(KafkaTimeoutError):
        producer.close(timeout=0)


def stuck_at(consumer: KafkaConsumer) -> tuple[TopicPartition, int]:
    """The record that the poll which raised CorruptRecordError could not read."""
    part = consumer._fetcher._next_partition_records
    return part.topic_partition, part.next_fetch_offset


class _WithoutLogins(logging.Filter):
    """Leaves out requests that log in, and bytes as they go over the wire: PLAIN sends the password as it is."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be seen."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        return not any(
            isinstance(argument, (SaslAuthenticateRequest, SaslBytesRequest, bytes, bytearray)) for argument in arguments
        )


_WITHOUT_LOGINS = _WithoutLogins()


def keep_logins_unlogged() -> None:
    """No password in the client's debug log. May be called again."""
    for name in REQUEST_LOGGERS:
        logging.getLogger(name).addFilter(_WITHOUT_LOGINS)
