"""What librdkafka's clients are told: how they reach the broker, what they hold, how long they wait."""

from __future__ import annotations

from typing import Any

from consumers.stream.kafka.kafka_python.client import ROOM_BYTES
from consumers.stream.log.port import Member
from consumers.stream.security import Security
from consumers.stream.spec import Guarantee, StreamSpec

STATS_EVERY_MS = 500
METADATA_EVERY_MS = 10_000  # so late partitions that were added are found
FULL_QUEUE_WAIT_MS = 10
BUSY_COORDINATOR_WAIT_MS = 5
LINGER_MS = 100
BATCH_BYTES = 512 * 1024
# The client's lowest; a record may be larger than a fetch, which then holds it alone.
FETCH_MIN_BYTES = 64 * 1024


def rdkafka_config(brokers: str, security: Security) -> dict[str, Any]:
    """Properties that every librdkafka client takes. Raises BadInput where a secret can't be read."""
    given = {
        "ssl.ca.location": security.ca_file,
        "ssl.certificate.location": security.cert_file,
        "ssl.key.location": security.key_file,
        "ssl.key.password": security.key_password(),
        "sasl.mechanism": security.mechanism,
        "sasl.username": security.username,
        "sasl.password": security.password(),
    }
    config = {"bootstrap.servers": brokers, "security.protocol": security.protocol.value}
    return config | {name: value for name, value in given.items() if value is not None}


def consumer_config(spec: StreamSpec, member: Member) -> dict[str, Any]:
    """A static member of the stream's group that holds no more than the stream may hold in flight, and commits nothing itself."""
    fetch_bytes = max(spec.max_in_flight_bytes // 4, 1024 * 1024)
    session_ms = int(spec.session_timeout_s * 1000)
    return {
        "group.id": member.group,
        "group.instance.id": member.instance,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",  # see consumers.stream.log.starts
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session_ms,
        "heartbeat.interval.ms": session_ms // 5,
        "fetch.max.bytes": fetch_bytes,
        "receive.message.max.bytes": max(fetch_bytes, spec.max_record_bytes + ROOM_BYTES) + 1024 * 1024,
        "max.partition.fetch.bytes": max(min(spec.max_in_flight_bytes // 16, 4 * 1024 * 1024), FETCH_MIN_BYTES),
        "queued.max.messages.kbytes": max(spec.max_in_flight_bytes // 1024, 1024),
        "check.crcs": True,
        "fetch.error.backoff.ms": 50,
        # A partition whose queue was full is asked again after this long: by default a second, which a fast worker idles.
        "fetch.queue.backoff.ms": FULL_QUEUE_WAIT_MS,
        "enable.partition.eof": True,
        "topic.metadata.refresh.interval.ms": METADATA_EVERY_MS,
        "statistics.interval.ms": STATS_EVERY_MS,
        "log_level": 3,
    }


def producer_config(spec: StreamSpec, member: Member, largest_bytes: int) -> dict[str, Any]:
    """An idempotent producer, transactional where the stream is exactly once. `largest_bytes`: what every output topic takes."""
    timeout_ms = int(spec.transaction_timeout_s * 1000)
    exactly_once = spec.guarantee is Guarantee.EXACTLY_ONCE
    transactions = {"transactional.id": member.transactional_id, "transaction.timeout.ms": timeout_ms} if exactly_once else {}
    return {
        **transactions,
        "enable.idempotence": True,
        # Every commit ends in a flush, which waits for nothing: what is sent before it had better fill its batches.
        "linger.ms": LINGER_MS,
        # A batch must fit too, not only a record.
        "batch.size": min(BATCH_BYTES, largest_bytes),
        "message.max.bytes": spec.max_record_bytes + 2 * ROOM_BYTES,
        "delivery.timeout.ms": timeout_ms,
        # While the markers of the last transaction are being written the broker refuses the next one's offsets: this is how long
        # the client then waits, and by default it is a tenth of a second.
        "retry.backoff.ms": BUSY_COORDINATOR_WAIT_MS,
        "queue.buffering.max.messages": max(10 * spec.max_batch_rows, 100_000),
        "queue.buffering.max.kbytes": max(4 * (spec.max_in_flight_bytes + spec.max_record_bytes) // 1024, 64 * 1024),
        "log_level": 3,
    }
