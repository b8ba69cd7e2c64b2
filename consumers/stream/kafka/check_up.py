"""What a broker says before a stream is started: where its members listen, and whether the stream may do what it has to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kafka.admin import KafkaAdminClient  # type: ignore[import-untyped]

from cluster.errors import Forbidden, HeadraceError, NotFound
from consumers.stream.kafka.admin import Admin
from consumers.stream.kafka.broker_errors import UNKNOWN, asker_of, broker_error
from consumers.stream.spec import Security, StreamSpec

# Bits of what a broker says one may do with a topic (KIP-430).
READ, WRITE, NOT_TOLD = 3, 4, -(1 << 31)
NEEDED = {READ: "read", WRITE: "write"}


@dataclass(frozen=True, slots=True)
class BrokersSeen:
    """Where brokers listen, as host:port, by their own words, and what is wrong."""

    addresses: tuple[str, ...]
    troubles: tuple[HeadraceError, ...]


def check_up(brokers: str, security: Security, spec: StreamSpec | None, name: str) -> BrokersSeen:
    """Asks the broker, as the stream `name` would; changes nothing there. Blocks for some seconds where it is away."""
    admin = Admin(brokers, security, asker_of(spec) if spec is not None else UNKNOWN)
    try:
        with admin.asking(broker_error) as client:
            members = client.describe_cluster()["brokers"]
            addresses = tuple(f"{each['host']}:{each['port']}" for each in members)
            return BrokersSeen(addresses, tuple(_of_stream(client, spec, name)) if spec is not None else ())
    except HeadraceError as error:
        return BrokersSeen((), (error,))
    finally:
        admin.close()


def _of_stream(client: KafkaAdminClient, spec: StreamSpec, name: str) -> Iterator[HeadraceError]:
    wanted = dict.fromkeys(spec.input.names, READ) | {topic.topic: WRITE for topic in (spec.output, spec.dead_letters)}
    yield from judge_topics(client.describe_topics(sorted(wanted)), wanted, name)
    client.describe_groups([spec.group_of(name)])


def judge_topics(described: Iterable[dict[str, Any]], wanted: dict[str, int], stream: str) -> Iterator[HeadraceError]:
    """What is missing of topics, and of rights to them; `wanted` is what has to be done with each. Pure."""
    by_name = {each["name"]: each for each in described}
    for topic, operation in wanted.items():
        seen = by_name.get(topic)
        if seen is None or not seen["partitions"]:
            yield NotFound(
                "no such topic, or no right to see it",
                where=f"stream {stream}, topic {topic}",
                remedy="make it, or give the stream's user the right to DESCRIBE it",
            )
            continue
        if not _may(seen.get("topic_authorized_operations"), operation):
            yield Forbidden(
                f"the stream's user may not {NEEDED[operation]} it",
                where=f"stream {stream}, topic {topic}",
                remedy=f"give it the right to {NEEDED[operation].upper()} the topic (kafka-acls)",
            )


def _may(told: Any, operation: int) -> bool:
    """What a broker did not tell is not held against the user: older ones tell nothing."""
    if told is None or told == NOT_TOLD:
        return True
    if isinstance(told, int):
        return bool(told >> operation & 1)
    return operation in {int(each) for each in told}
