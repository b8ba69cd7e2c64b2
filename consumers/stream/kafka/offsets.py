"""Where topics begin, end and were at a time, and where a group stands: asked and set from outside, in bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from kafka import IsolationLevel, TopicPartition  # type: ignore[import-untyped]
from kafka.admin import KafkaAdminClient, OffsetSpec  # type: ignore[import-untyped]
from kafka.errors import KafkaError, NoError, RetriableError  # type: ignore[import-untyped]
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from cluster.errors import Conflict, NotFound
from consumers.stream.kafka.broker_errors import Asker, Cause, broker_error, cause_of, client_error_of
from consumers.stream.kafka.kafka_python.client import client_config, topics_of
from consumers.stream.kafka.kafka_python.inside import end_requests_by
from consumers.stream.log.port import Partition
from consumers.stream.log.starts import metadata_of
from consumers.stream.security import Security
from consumers.stream.spec import StreamSpec

CALL_TIMEOUT_S = 10.0
ASK_EVERY_S = 1.0
RETRY_EVERY_S = 0.2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OffsetRanges:
    """A part of a topic, by partition: from, and up to but without."""

    starts: dict[Partition, int]
    ends: dict[Partition, int]

    def __len__(self) -> int:
        return sum(end - self.starts[partition] for partition, end in self.ends.items())


def offset_ranges(
    spec: StreamSpec, brokers: str, *, from_ms: int | None = None, to_ms: int | None = None, timeout_s: float = CALL_TIMEOUT_S
) -> OffsetRanges:
    """What lies in the input's topics between two times (Unix, milliseconds); None is the beginning, or what is committed now.

    A broker that stands still is given up after `timeout_s`. Raises Unreachable, and NotFound where there is no such topic.
    """
    with _asking(brokers, spec.security, timeout_s) as (admin, patiently):
        names = [name for name in patiently(admin.list_topics) if spec.input.reads(name)]
        if not names:
            raise NotFound("no such topic", where=str(spec.input.topic or spec.input.pattern), remedy="check the document")
        parts = [
            TopicPartition(answer["name"], partition["partition_index"])
            for answer in patiently(partial(admin.describe_topics, names))
            for partition in answer["partitions"]
        ]
        first = patiently(partial(_offsets, admin, parts, OffsetSpec.EARLIEST))
        last = patiently(partial(_offsets, admin, parts, OffsetSpec.LATEST))
        starts = patiently(partial(_at, admin, parts, from_ms, last)) if from_ms is not None else first
        ends = patiently(partial(_at, admin, parts, to_ms, last)) if to_ms is not None else last
    where = {part: Partition(part.topic, part.partition) for part in parts}
    return OffsetRanges(
        {where[part]: starts[part] for part in parts}, {where[part]: max(ends[part], starts[part]) for part in parts}
    )


def set_group(
    group: str, starts: Mapping[Partition, int], brokers: str, security: Security, *, keep: bool = False, timeout_s: float = 60.0
) -> None:
    """Commits for a group that has no members. With `keep`, only where it has committed nothing yet.

    The stream's own members that were stopped count until their session is over, so this waits for them. Raises Conflict where
    another consumer is in the group, or there still are members after `timeout_s`; and Unreachable.
    """
    until_s = time.monotonic() + timeout_s
    with _asking(brokers, security, timeout_s, group) as (admin, patiently):
        topics = patiently(partial(topics_of, admin, {partition.topic for partition in starts}))
        wanted = {
            TopicPartition(*partition): OffsetAndMetadata(offset, metadata_of(topics[partition.topic].id), -1)
            for partition, offset in starts.items()
            if partition.topic in topics
        }
        if keep:
            known = patiently(partial(_committed, admin, group, list(wanted)))
            wanted = {part: to for part, to in wanted.items() if known.get(part, -1) < 0}
        while (failure := patiently(partial(_refusal, admin, group, wanted))) is not None:
            if cause_of(client_error_of(failure)) not in (Cause.GROUP_CHANGED, Cause.GROUP_IN_USE):
                raise failure
            members = patiently(partial(_members, admin, group))
            strangers = [member for member in members if not _is_ours(member, group)]
            if strangers:
                raise Conflict(
                    f"the group is in use by another consumer: {_named(strangers)}",
                    where=group,
                    remedy="stop that consumer, or choose another spec.group",
                ) from failure
            if time.monotonic() + ASK_EVERY_S > until_s:
                raise Conflict(
                    f"the group has members: {_named(members) or 'they leave just now'}",
                    where=group,
                    remedy="pause the stream first; members count until their session is over",
                ) from failure
            time.sleep(ASK_EVERY_S)  # a broker has no call that waits until a group is empty


def committed_offsets(
    group: str, partitions: Iterable[Partition], brokers: str, security: Security, *, timeout_s: float = CALL_TIMEOUT_S
) -> dict[Partition, int]:
    """What the group has committed, of the partitions of which it has committed anything. Raises Unreachable."""
    with _asking(brokers, security, timeout_s, group) as (admin, patiently):
        known = patiently(partial(_committed, admin, group, [TopicPartition(*partition) for partition in partitions]))
    return {Partition(part.topic, part.partition): offset for part, offset in known.items() if offset >= 0}


def _committed(admin: KafkaAdminClient, group: str, parts: list[TopicPartition]) -> dict[TopicPartition, int]:
    answer = admin.list_group_offsets({group: parts}).get(group, {}) if parts else {}
    return {part: int(to.offset) for part, to in answer.items()}


def _refusal(admin: KafkaAdminClient, group: str, wanted: Mapping[TopicPartition, OffsetAndMetadata]) -> KafkaError | None:
    """Commits. What the broker has against it, or None. Raises where it is just not ready, as after its start."""
    answer = admin.alter_group_offsets(group, wanted) if wanted else {}
    failure = next((kind() for kind in answer.values() if kind is not NoError), None)
    if failure is not None and cause_of(client_error_of(failure)) is Cause.NO_COORDINATOR:
        raise failure
    return failure


def _members(admin: KafkaAdminClient, group: str) -> list[dict[str, Any]]:
    return list(admin.describe_groups([group])[group]["members"])


def _is_ours(member: Mapping[str, Any], group: str) -> bool:
    """Whether a worker of the stream, or its replay, goes by that name."""
    name = member.get("group_instance_id") or ""
    return bool(name == group or name.startswith(f"{group}-"))


def _named(members: list[dict[str, Any]]) -> str:
    """Each as `name at host`."""
    named = (f"{each.get('group_instance_id') or each['client_id']} at {each['client_host'].lstrip('/')}" for each in members)
    return ", ".join(sorted(named))


def _offsets(admin: KafkaAdminClient, parts: list[TopicPartition], where: OffsetSpec | int) -> dict[TopicPartition, int]:
    answer = admin.list_partition_offsets(dict.fromkeys(parts, where), isolation_level=IsolationLevel.READ_COMMITTED)
    return {part: int(answer[part].offset) for part in parts}


def _at(
    admin: KafkaAdminClient, parts: list[TopicPartition], when_ms: int, last: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    answer = _offsets(admin, parts, when_ms)
    return {part: answer[part] if answer[part] >= 0 else last[part] for part in parts}


class _Patience:
    """Calls again what the broker can't do just now, until `until_s` (monotonic)."""

    def __init__(self, until_s: float) -> None:
        self._until_s = until_s

    def __call__(self, call: Callable[[], T]) -> T:
        """What the call returns. Raises KafkaError."""
        while True:
            try:
                return call()
            except RetriableError:
                if time.monotonic() + RETRY_EVERY_S > self._until_s:
                    raise
            time.sleep(RETRY_EVERY_S)  # such as a leader that is being chosen, which a broker does not announce


@contextmanager
def _asking(
    brokers: str, security: Security, timeout_s: float, group: str = "of the stream"
) -> Iterator[tuple[KafkaAdminClient, _Patience]]:
    """A client whose calls all end within `timeout_s`. What they raise becomes an error of ours."""
    until_s = time.monotonic() + timeout_s
    limit_ms = int(max(min(timeout_s, CALL_TIMEOUT_S), 0.001) * 1000)
    try:
        config = client_config(brokers, security)
        admin = KafkaAdminClient(**config, request_timeout_ms=limit_ms, bootstrap_timeout_ms=limit_ms)
        end_requests_by(admin, until_s)
        try:
            yield admin, _Patience(until_s)
        finally:
            admin.close()
    except KafkaError as error:
        raise broker_error(brokers, error, Asker(group=group, secured=security.identifies)) from error
