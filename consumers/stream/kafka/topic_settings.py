"""What the settings of the topics that a stream writes say of the records that they take."""

from __future__ import annotations

from collections.abc import Mapping

from kafka.admin import ConfigResource  # type: ignore[import-untyped]

from cluster.errors import BadInput
from consumers.stream.kafka.admin import Admin
from consumers.stream.kafka.kafka_python.client import LIMIT, ROOM_BYTES
from consumers.stream.log.port import TopicLimits
from consumers.stream.spec import StreamSpec

POLICY = "cleanup.policy"
IN_SYNC = "min.insync.replicas"
TIME_TYPE = "message.timestamp.type"
BEFORE = "message.timestamp.before.max.ms"
AFTER = "message.timestamp.after.max.ms"
EITHER = "message.timestamp.difference.max.ms"  # of brokers before 3.6
ASKED = (LIMIT, POLICY, IN_SYNC, TIME_TYPE, BEFORE, AFTER, EITHER)
BATCH_BYTES = 100  # the broker counts the batch that a record travels in, with its own header
ANY_TIME_MS = 2**62
LEAST_BYTES = 2048  # for a dead letter without its value, or an answer's headers and some value
LEAST_MS = 1000  # from a worker's clock to the broker's, on the way
Settings = Mapping[str, str]


def limits_in(settings: Settings, ours_bytes: int) -> TopicLimits:
    """What a topic with these settings takes, as far as they are told; `ours_bytes` is what our producer lets through. Pure."""
    largest_bytes = min(int(settings[LIMIT]) - BATCH_BYTES, ours_bytes) if LIMIT in settings else ours_bytes
    keyed = "compact" in settings.get(POLICY, "").split(",")
    if settings.get(TIME_TYPE) == "LogAppendTime":  # then the broker sets it
        return TopicLimits(largest_bytes, keyed)
    either_ms = int(settings.get(EITHER, ANY_TIME_MS))
    before_ms, after_ms = int(settings.get(BEFORE, either_ms)), int(settings.get(AFTER, either_ms))
    return TopicLimits(
        largest_bytes,
        keyed,
        before_ms if before_ms < ANY_TIME_MS else None,
        after_ms if after_ms < ANY_TIME_MS else None,
    )


def expect_possible(topic: str, settings: Settings, replicas: int | None) -> None:
    """Raises BadInput where the settings let the topic take no record at all; a partition has `replicas` at least. Pure."""
    taken = limits_in(settings, LEAST_BYTES)
    if taken.largest_bytes < LEAST_BYTES:
        remedy = f"raise it to {LEAST_BYTES + BATCH_BYTES} at least"
        raise BadInput(f"{LIMIT}={settings[LIMIT]} is too small for any record of a stream", where=topic, remedy=remedy)
    for name, ms in ((BEFORE, taken.before_ms), (AFTER, taken.after_ms)):
        if ms is not None and ms < LEAST_MS:
            remedy = f"raise it to {LEAST_MS} at least, or set {TIME_TYPE}=LogAppendTime"
            raise BadInput(f"{name}={ms} refuses even records of now", where=topic, remedy=remedy)
    if replicas is not None and int(settings.get(IN_SYNC, 1)) > replicas:
        remedy = f"lower {IN_SYNC}, or give the topic more replicas"
        raise BadInput(f"{IN_SYNC}={settings[IN_SYNC]} is more than its {replicas} replicas", where=topic, remedy=remedy)


def _asked(spec: StreamSpec, admin: Admin) -> dict[str, tuple[Settings, int | None]]:
    """Settings and replicas of the topics that the stream writes. Raises Unreachable."""
    topics = list(dict.fromkeys((spec.output.topic, spec.dead_letters.topic)))
    resources = [ConfigResource("topic", topic, list(ASKED)) for topic in topics]
    with admin.asking() as client:
        configs = client.describe_configs(resources, config_filter="all")  # where we have no right to ask, this tells nothing
        described = {each["name"]: each["partitions"] for each in client.describe_topics(topics)}
    found: dict[str, tuple[Settings, int | None]] = {}
    for topic in topics:
        settings = configs.get("topic", {}).get(topic, {})
        known = {name: str(each["value"]) for name, each in settings.items() if each["value"] is not None}
        replicas = min((len(partition["replica_nodes"]) for partition in described.get(topic, ())), default=None)
        found[topic] = known, replicas
    return found


class TopicSettings:
    """What the topics take that a stream writes, as last asked: when made, and by `renew` after a refusal (raise Unreachable)."""

    def __init__(self, spec: StreamSpec, admin: Admin) -> None:
        """Raises BadInput where a topic's settings let it take no record at all."""
        self._spec, self._admin = spec, admin
        self._refused = False
        self._limits: dict[str, TopicLimits] = {}
        self._ask(admin, expecting=True)

    def of(self, topic: str) -> TopicLimits:
        """What one record of the topic may be."""
        return self._limits[topic]

    @property
    def smallest(self) -> int:
        """What the largest record may take that each topic takes, in bytes."""
        return max(min(each.largest_bytes for each in self._limits.values()), 1)

    def refuse(self) -> None:
        """A topic did not take what it should: its settings have changed since they were asked. From any thread."""
        self._refused = True

    def renew(self) -> None:
        """Asks again where something was refused."""
        if not self._refused:
            return
        admin = self._admin.twin()  # by now the first one is another thread's
        try:
            self._ask(admin, expecting=False)  # a stream that runs says itself what it can't write
        finally:
            admin.close()
        self._refused = False

    def _ask(self, admin: Admin, *, expecting: bool) -> None:
        ours_bytes = self._spec.max_record_bytes + ROOM_BYTES
        for topic, (settings, replicas) in _asked(self._spec, admin).items():
            if expecting:
                expect_possible(topic, settings, replicas)
            self._limits[topic] = limits_in(settings, ours_bytes)
