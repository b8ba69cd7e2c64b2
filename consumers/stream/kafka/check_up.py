"""What a broker says, before a stream is started and while it runs: where its members listen, whether all copies of what they
keep are there, and whether the stream may do what it has to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kafka.admin import ConfigResource, KafkaAdminClient  # type: ignore[import-untyped]

from cluster.errors import Forbidden, HeadraceError, NotFound
from consumers.stream.kafka.admin import Admin
from consumers.stream.kafka.broker_errors import UNKNOWN, asker_of, broker_error
from consumers.stream.kafka.topic_settings import IN_SYNC
from consumers.stream.security import Security
from consumers.stream.spec import StreamSpec

# Bits of what a broker says one may do with a topic (KIP-430).
READ, WRITE, NOT_TOLD = 3, 4, -(1 << 31)
NEEDED = {READ: "read", WRITE: "write"}
MOST_ASKED = 200  # topics at a time, for a setting


@dataclass(frozen=True, slots=True)
class PartitionCopies:
    """Of `partitions` in all: the names (topic-number) of those that `lack` a copy which should be in sync, and of those which
    take no records for that (`stopped`). `away` are the numbers of the brokers that have a copy and are not there."""

    partitions: int = 0
    lack: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    away: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BrokersSeen:
    """Where brokers listen, as host:port, by their own words; of these, where partitions are led or may be; the copies of what
    they keep; and what is wrong. A broker that was lost is counted for minutes, and leads nothing."""

    addresses: tuple[str, ...] = ()
    leaders: tuple[str, ...] = ()
    copies: PartitionCopies = field(default_factory=PartitionCopies)
    troubles: tuple[HeadraceError, ...] = ()


def check_up(brokers: str, security: Security, spec: StreamSpec | None, name: str) -> BrokersSeen:
    """Asks the broker, as the stream `name` would; changes nothing there. Blocks for some seconds where it is away."""
    admin = Admin(brokers, security, asker_of(spec) if spec is not None else UNKNOWN)
    seen = BrokersSeen()
    try:
        with admin.asking(broker_error) as client:
            members = client.describe_cluster()["brokers"]
            numbered = {each["broker_id"]: f"{each['host']}:{each['port']}" for each in members}
            everywhere = tuple(numbered.values())
            seen = replace(seen, addresses=everywhere, leaders=everywhere)  # until topics are described
            described = client.describe_topics()
            seen = replace(seen, leaders=leaders_in(described, numbered), copies=_copies(client, described))
            return replace(seen, troubles=tuple(_of_stream(client, spec, name)) if spec is not None else ())
    except HeadraceError as error:
        return replace(seen, troubles=(error,))
    finally:
        admin.close()


def leaders_in(described: Sequence[Mapping[str, Any]], numbered: Mapping[int, str]) -> tuple[str, ...]:
    """Those of the brokers, by their addresses, that lead a partition or may have to: all but those whose copies are away. Who
    leads nothing among the topics that a user may see may lead others, and coordinate the stream's group. Pure."""
    every = [partition for each in described for partition in each["partitions"]]
    leading = {partition["leader_id"] for partition in every}
    away = {number for partition in every for number in partition["offline_replicas"]}
    return tuple(address for number, address in numbered.items() if number in leading or number not in away)


def _copies(client: KafkaAdminClient, described: Sequence[Mapping[str, Any]]) -> PartitionCopies:
    """Of all topics that this user may see."""
    topics = sorted({each["name"] for each in described if any(map(_lacks, each["partitions"]))})
    asked = [ConfigResource("topic", topic, [IN_SYNC]) for topic in topics[:MOST_ASKED]]
    told = client.describe_configs(asked, config_filter="all").get("topic", {}) if asked else {}
    least = {topic: int(settings[IN_SYNC]["value"]) for topic, settings in told.items() if IN_SYNC in settings}
    return copies_in(described, least)


def copies_in(described: Iterable[Mapping[str, Any]], least: Mapping[str, int]) -> PartitionCopies:
    """What is lacking of these topics; `least` is how many copies of each must be in sync, 1 where it is not told. Pure."""
    every = [(each["name"], partition) for each in described for partition in each["partitions"]]
    lacking = [(topic, partition) for topic, partition in every if _lacks(partition)]
    stopped = [(t, p) for t, p in lacking if p["leader_id"] < 0 or len(p["isr_nodes"]) < least.get(t, 1)]
    away = sorted({number for _, partition in lacking for number in partition["offline_replicas"]})
    return PartitionCopies(len(every), _names(lacking), _names(stopped), tuple(away))


def _lacks(partition: Mapping[str, Any]) -> bool:
    return len(partition["isr_nodes"]) < len(partition["replica_nodes"])


def _names(partitions: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[str, ...]:
    return tuple(sorted(f"{topic}-{partition['partition_index']}" for topic, partition in partitions))


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
