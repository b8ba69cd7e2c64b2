"""What kafka-python knows and does not say: where we look inside it (pinned below 3.1), with `kafka_batches`.

It polls in vain where its broker is away, or a topic may not be seen; where another member took its name, it only stops its
heartbeats; a rebalance that ends between two polls it forgets; where a record can't be read, it does not tell which; a producer
with unsent records can't be thrown away; its debug log would tell the password; and a commit that is not yet stable is told as
none.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.admin import KafkaAdminClient  # type: ignore[import-untyped]
from kafka.coordinator.base import MemberState  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaTimeoutError,
    RebalanceInProgressError,
    TopicAuthorizationFailedError,
    UnknownMemberIdError,
    UnstableOffsetCommitError,
    for_code,
)
from kafka.protocol.consumer.group import OffsetFetchRequest  # type: ignore[import-untyped]
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


def end_requests_by(admin: KafkaAdminClient, until_s: float) -> None:
    """No request of this client takes longer than until then (monotonic): its own limit counts anew for each."""
    send, most_ms = admin._manager.send, admin.config["request_timeout_ms"]

    def bounded(request: Any, node_id: Any = None, request_timeout_ms: int | None = None) -> Any:
        left_ms = max(int((until_s - time.monotonic()) * 1000), 1)
        return send(request, node_id=node_id, request_timeout_ms=min(request_timeout_ms or most_ms, left_ms))

    admin._manager.send = bounded


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


@dataclass(frozen=True, slots=True)
class StableOffset:
    """What a group has committed of a partition: None where it has nothing. `unstable`: an open transaction holds it.

    librdkafka ends its metadata with a zero byte, which is left out.
    """

    offset: int | None
    metadata: str
    unstable: bool


def stable_offsets(
    admin: KafkaAdminClient, group: str, partitions: Sequence[TopicPartition] | None
) -> dict[TopicPartition, StableOffset]:
    """What the group has committed of these partitions, or of all that it has commits of. Blocks; raises KafkaError.

    The client's own call leaves out what is not stable, or raises for all partitions where it is so of one.
    """
    topics: dict[str, list[int]] = {}
    for part in partitions or ():
        topics.setdefault(part.topic, []).append(part.partition)
    of_group = OffsetFetchRequest.OffsetFetchRequestGroup
    inner = [of_group.OffsetFetchRequestTopics(name=name, partition_indexes=numbers) for name, numbers in topics.items()]
    outer = [OffsetFetchRequest.OffsetFetchRequestTopic(name=name, partition_indexes=numbers) for name, numbers in topics.items()]
    request = OffsetFetchRequest(
        group_id=group,
        topics=outer if partitions is not None else None,
        groups=[of_group(group_id=group, topics=inner if partitions is not None else None)],
        require_stable=True,
        min_version=7,  # the first that tells what is not stable
        max_version=8,
    )
    told = admin._manager.run(_ask_coordinator, admin, group, request)
    answer = told.groups[0] if told.API_VERSION >= 8 else told
    if answer.error_code:
        raise for_code(answer.error_code)(f"what {group} has committed can't be read")
    found: dict[TopicPartition, StableOffset] = {}
    for topic in answer.topics:
        for each in topic.partitions:
            unstable = each.error_code == UnstableOffsetCommitError.errno
            if each.error_code and not unstable:
                raise for_code(each.error_code)(f"what {group} has committed of {topic.name} can't be read")
            offset = each.committed_offset if each.committed_offset >= 0 and not unstable else None
            found[TopicPartition(topic.name, each.partition_index)] = StableOffset(
                offset, (each.metadata or "").rstrip("\0"), unstable
            )
    return found


async def _ask_coordinator(admin: KafkaAdminClient, group: str, request: OffsetFetchRequest) -> Any:
    return await admin._manager.send(request, node_id=await admin._find_coordinator_id(group))
