"""Every name of kafka-python's insides that we use, in one table, and what it is needed for.

The table is held against the client that is installed when a use is first asked for. Where a name is missing, what can be done
without it is done otherwise, and the rest is refused with the versions that have it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from types import FunctionType
from typing import Any

import kafka  # type: ignore[import-untyped]

from cluster.errors import BadInput

VERSIONS = ">=3.0.12,<3.1"
LOGIN_REQUESTS = ("kafka.protocol.sasl.SaslAuthenticateRequest", "kafka.protocol.sasl.SaslBytesRequest")
OFFSET_FETCH = "kafka.protocol.consumer.group.OffsetFetchRequest"
MEMBER_STATE = "kafka.structs.MemberState"
PRODUCER_BATCH = "kafka.producer.producer_batch.ProducerBatch"
RECORD_FUTURE = "kafka.producer.future.FutureRecordMetadata"
BATCH_BUILDER = "kafka.record.memory_records.MemoryRecordsBuilder"

logger = logging.getLogger(__name__)


class Use(Enum):
    """What the insides are needed for, and what is done without them; empty where nothing can be."""

    MEMBERSHIP = "to tell that a member can't read, or is another by now", ""
    STABLE = "to tell a commit that is not yet stable from none", ""
    SENDING = "to write whole batches", ""
    STEP_OVER = "to step over a record that can't be read", ""
    ROWS = "to read whole batches", "records are read one by one"
    WIRE = "to take more than 4 kB a call from the wire", "it is slower"
    ABANDON = "to throw away a producer with what is in it", "it is waited for"
    DEADLINE = "to end a command's requests in time", "each may take its own time limit"
    LOGINS = "to keep passwords out of the debug log", "no requests are logged"

    def __init__(self, purpose: str, without: str) -> None:
        self.purpose, self.without = purpose, without


NAMES: Mapping[Use, Mapping[str, Sequence[str]]] = {
    Use.MEMBERSHIP: {
        "kafka.KafkaConsumer": ("_coordinator", "_cluster"),
        "kafka.coordinator.consumer.ConsumerCoordinator": (
            "heartbeat",
            "coordinator_id",
            "group_instance_id",
            "request_rejoin",
            "_join_task",
            "_net",
            "_send_heartbeat_request",
        ),
        "kafka.coordinator.heartbeat.Heartbeat": ("last_receive", "last_reset"),
        "kafka.cluster.ClusterMetadata": ("unauthorized_topics", "request_update"),
        "kafka.net.selector.NetworkSelector": ("run",),
        MEMBER_STATE: ("STABLE",),
    },
    Use.STABLE: {
        "kafka.admin.KafkaAdminClient": ("_manager", "_find_coordinator_id"),
        "kafka.net.manager.KafkaConnectionManager": ("run", "send"),
        OFFSET_FETCH: ("OffsetFetchRequestGroup", "OffsetFetchRequestTopic"),
    },
    Use.SENDING: {
        "kafka.KafkaProducer": ("_transaction_manager", "_accumulator", "_sender"),
        "kafka.producer.transaction_manager.TransactionManager": ("is_transactional", "maybe_add_partition_to_transaction"),
        "kafka.producer.sender.Sender": ("wakeup",),
        "kafka.producer.record_accumulator.RecordAccumulator": (
            "config",
            "_appends_in_progress",
            "_tp_lock",
            "_closed",
            "_batches",
            "_incomplete",
        ),
        "kafka.producer.record_accumulator.AtomicInteger": ("increment", "decrement"),
        "kafka.producer.record_accumulator.IncompleteProducerBatches": ("add",),
        PRODUCER_BATCH: (
            "_record_futures",
            "produce_future",
            "is_done",
            "record_count",
            "topic_partition",
        ),
        RECORD_FUTURE: (),
        BATCH_BUILDER: ("_builder",),
        "kafka.record.default_records.DefaultRecordBatchBuilder": (
            "_buffer",
            "_num_records",
            "_last_offset",
            "_first_timestamp",
            "_max_timestamp",
        ),
    },
    Use.STEP_OVER: {
        "kafka.KafkaConsumer": ("_fetcher",),
        "kafka.consumer.fetcher.Fetcher": ("_next_partition_records",),
        "kafka.consumer.fetcher.Fetcher.PartitionRecords": ("topic_partition", "next_fetch_offset"),
    },
    Use.ROWS: {
        "kafka.KafkaConsumer": ("_fetcher",),
        "kafka.consumer.fetcher.Fetcher": ("PartitionRecords",),
        "kafka.consumer.fetcher.Fetcher.PartitionRecords": (
            "take",
            "drain",
            "check_crcs",
            "bytes_read",
            "leader_epoch",
            "isolation_level",
            "topic_partition",
            "next_fetch_offset",
            "aborted_producer_ids",
            "_unpack_records",
            "_consume_aborted_transactions_up_to",
            "_contains_abort_marker",
            "_is_batch_aborted",
        ),
        "kafka.record.default_records.DefaultRecordBatch": (
            "HEADER_STRUCT",
            "CODEC_NONE",
            "_buffer",
            "_maybe_uncompress",
            "base_offset",
            "next_offset",
            "last_offset",
            "first_timestamp",
            "max_timestamp",
            "timestamp_type",
            "compression_type",
            "records_count",
            "validate_crc",
            "is_control_batch",
            "has_producer_id",
        ),
        "kafka.record.legacy_records.LegacyRecordBatch": ("validate_crc",),
        "kafka.record.memory_records.MemoryRecords": (
            "MAGIC_OFFSET",
            "next_batch",
            "_buffer",
            "_pos",
            "_next_slice",
            "_cache_next",
        ),
    },
    Use.WIRE: {
        "kafka.net.manager": ("KafkaTCPTransport",),
        "kafka.net.transport.KafkaTCPTransport": ("_sock", "_sock_recv"),
        "kafka.protocol.frame.KafkaBytes": ("_idx", "read"),
    },
    Use.ABANDON: {"kafka.KafkaProducer": ("_sender",), "kafka.producer.sender.Sender": ("force_close",)},
    Use.DEADLINE: {
        "kafka.admin.KafkaAdminClient": ("_manager",),
        "kafka.net.manager.KafkaConnectionManager": ("send",),
    },
    Use.LOGINS: dict.fromkeys(LOGIN_REQUESTS, ()),
}


def found(path: str) -> Any:
    """What lies there: a module, a class, or a class in a class. Raises ImportError or AttributeError."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            thing = getattr(thing, name)
        return thing
    raise ImportError(path)


@cache
def missing(use: Use) -> tuple[str, ...]:
    """The names of that use which the client that is installed does not have."""
    return tuple(f"{path}.{name}".removesuffix(".") for path, names in NAMES[use].items() for name in _missing_of(path, names))


def _missing_of(path: str, names: Sequence[str]) -> list[str]:
    try:
        thing = found(path)
    except (ImportError, AttributeError):
        return [""]
    return [name for name in names if not (hasattr(thing, name) or name in _set_by(thing))]


@cache
def _set_by(thing: Any) -> frozenset[str]:
    """The attributes that a class's own functions name: those of its instances are in no class."""
    methods = [each for kind in getattr(thing, "__mro__", ()) for each in vars(kind).values() if isinstance(each, FunctionType)]
    return frozenset(name for method in methods for name in method.__code__.co_names)


def expect(use: Use) -> None:
    """Raises BadInput where the client that is installed lacks what is needed for this."""
    if lacking := missing(use):
        raise BadInput(
            f"kafka-python {kafka.__version__} lacks {', '.join(lacking)}, which is needed {use.purpose}",
            where="kafka-python",
            remedy=f"install kafka-python{VERSIONS}",
        )


@cache
def has(use: Use) -> bool:
    """Whether all is there for what can be done otherwise too; says so once where it is not."""
    if lacking := missing(use):
        logger.warning(
            "kafka-python %s lacks %s, %s: %s; kafka-python%s has it",
            kafka.__version__,
            ", ".join(lacking),
            use.purpose,
            use.without,
            VERSIONS,
        )
    return not lacking
