"""What a Kafka client raised, in our words: what is missing, on what, and which setting or right mends it. Pure.

Both clients pass on the broker's own error numbers (https://kafka.apache.org/protocol#protocol_error_codes). What they find out
by themselves librdkafka numbers below zero, and kafka-python names by a class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

from kafka import errors as kafka_errors  # type: ignore[import-untyped]

from cluster.errors import BadInput, Conflict, HeadraceError, NotFound, Unreachable
from consumers.stream.log.port import Member
from consumers.stream.spec import StreamSpec

E = TypeVar("E", bound=HeadraceError)

NO_NUMBER = 0  # of what a client found out by itself and did not number


class Cause(Enum):
    """Why a call failed, as far as the remedies differ."""

    AWAY = auto()
    LOGIN = auto()
    TLS = auto()
    NO_COORDINATOR = auto()
    NO_TRANSACTIONS = auto()
    TRANSACTION_TIMEOUT = auto()
    SESSION_TIMEOUT = auto()
    OTHER_ASSIGNOR = auto()
    GROUP_IN_USE = auto()
    GROUP_FULL = auto()
    GROUP_CHANGED = auto()
    FENCED = auto()
    RIGHT_TO_TRANSACTIONS = auto()
    RIGHT_TO_GROUP = auto()
    RIGHT_TO_TOPIC = auto()
    RIGHT_TO_CLUSTER = auto()
    NO_TOPIC = auto()
    TOO_FEW_REPLICAS = auto()
    TOO_FEW_BROKERS = auto()
    TOO_LARGE = auto()
    REFUSED_BY_POLICY = auto()
    OLD_BROKER = auto()
    THROTTLED = auto()
    DISK = auto()
    UNFORESEEN = auto()


@dataclass(frozen=True, slots=True)
class ClientError:
    """What a client said: the error's number and name, and its text."""

    number: int
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked the broker, and for what, as far as that is known. `secured`: whether a user or a certificate is shown."""

    group: str = "of the stream"
    transactional_id: str = "of the stream"
    topics: tuple[str, ...] = ()
    secured: bool = False


UNKNOWN = Asker()


def asker_of(spec: StreamSpec, member: Member | None = None) -> Asker:
    """A stream, or one member of its group."""
    topics = (*(spec.input.names or (spec.input.pattern,)), spec.output.topic, spec.dead_letters.topic)
    if member is None:
        return Asker(topics=topics, secured=spec.security.identifies)
    return Asker(member.group, member.transactional_id, topics, spec.security.identifies)


_BY_NUMBER: Mapping[int, Cause] = {
    # --- the broker's
    3: Cause.NO_TOPIC,  # UNKNOWN_TOPIC_OR_PARTITION
    7: Cause.AWAY,  # REQUEST_TIMED_OUT
    10: Cause.TOO_LARGE,  # MESSAGE_TOO_LARGE
    13: Cause.AWAY,  # NETWORK_EXCEPTION
    14: Cause.NO_COORDINATOR,  # COORDINATOR_LOAD_IN_PROGRESS
    15: Cause.NO_COORDINATOR,  # COORDINATOR_NOT_AVAILABLE
    16: Cause.NO_COORDINATOR,  # NOT_COORDINATOR
    18: Cause.TOO_LARGE,  # RECORD_LIST_TOO_LARGE
    19: Cause.TOO_FEW_REPLICAS,  # NOT_ENOUGH_REPLICAS
    20: Cause.TOO_FEW_REPLICAS,  # NOT_ENOUGH_REPLICAS_AFTER_APPEND
    22: Cause.GROUP_CHANGED,  # ILLEGAL_GENERATION
    23: Cause.OTHER_ASSIGNOR,  # INCONSISTENT_GROUP_PROTOCOL
    25: Cause.GROUP_CHANGED,  # UNKNOWN_MEMBER_ID
    26: Cause.SESSION_TIMEOUT,  # INVALID_SESSION_TIMEOUT
    27: Cause.GROUP_CHANGED,  # REBALANCE_IN_PROGRESS
    29: Cause.RIGHT_TO_TOPIC,  # TOPIC_AUTHORIZATION_FAILED
    30: Cause.RIGHT_TO_GROUP,  # GROUP_AUTHORIZATION_FAILED
    31: Cause.RIGHT_TO_CLUSTER,  # CLUSTER_AUTHORIZATION_FAILED
    33: Cause.LOGIN,  # UNSUPPORTED_SASL_MECHANISM
    34: Cause.LOGIN,  # ILLEGAL_SASL_STATE
    35: Cause.OLD_BROKER,  # UNSUPPORTED_VERSION
    38: Cause.TOO_FEW_BROKERS,  # INVALID_REPLICATION_FACTOR
    40: Cause.REFUSED_BY_POLICY,  # INVALID_CONFIG
    43: Cause.OLD_BROKER,  # UNSUPPORTED_FOR_MESSAGE_FORMAT
    44: Cause.REFUSED_BY_POLICY,  # POLICY_VIOLATION
    47: Cause.FENCED,  # INVALID_PRODUCER_EPOCH
    49: Cause.FENCED,  # INVALID_PRODUCER_ID_MAPPING
    50: Cause.TRANSACTION_TIMEOUT,  # INVALID_TRANSACTION_TIMEOUT
    53: Cause.RIGHT_TO_TRANSACTIONS,  # TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    56: Cause.DISK,  # KAFKA_STORAGE_ERROR
    58: Cause.LOGIN,  # SASL_AUTHENTICATION_FAILED
    68: Cause.GROUP_IN_USE,  # NON_EMPTY_GROUP
    81: Cause.GROUP_FULL,  # GROUP_MAX_SIZE_REACHED
    89: Cause.THROTTLED,  # THROTTLING_QUOTA_EXCEEDED
    90: Cause.FENCED,  # PRODUCER_FENCED
    # --- librdkafka's own
    -144: Cause.FENCED,  # _FENCED
    -165: Cause.OLD_BROKER,  # _UNSUPPORTED_FEATURE
    -169: Cause.LOGIN,  # _AUTHENTICATION
    -180: Cause.NO_COORDINATOR,  # _WAIT_COORD
    -181: Cause.TLS,  # _SSL
    -185: Cause.AWAY,  # _TIMED_OUT
    -187: Cause.AWAY,  # _ALL_BROKERS_DOWN
    -188: Cause.NO_TOPIC,  # _UNKNOWN_TOPIC
    -190: Cause.NO_TOPIC,  # _UNKNOWN_PARTITION
    -192: Cause.AWAY,  # _MSG_TIMED_OUT
    -193: Cause.AWAY,  # _RESOLVE
    -195: Cause.AWAY,  # _TRANSPORT
}
_BY_NAME: Mapping[str, Cause] = {
    "KafkaTimeoutError": Cause.AWAY,
    "KafkaConnectionError": Cause.AWAY,
    "NodeNotReadyError": Cause.AWAY,
    "MetadataEmptyBrokerList": Cause.AWAY,
    "StaleMetadata": Cause.AWAY,
    "Cancelled": Cause.AWAY,
    "CommitFailedError": Cause.GROUP_CHANGED,
    "IncompatibleBrokerVersion": Cause.OLD_BROKER,
    "UnrecognizedBrokerVersion": Cause.OLD_BROKER,
}
# A time limit means more where it passed in these calls: the rest of the broker has just answered.
_OPENING_TRANSACTIONS = ("initializing transactional state", "retry call to resume")


@dataclass(frozen=True, slots=True)
class _Words:
    """What was wrong, where the client's own text does not say it; the remedy; and the class outside of a running stream."""

    what: str
    remedy: str
    kind: type[HeadraceError] = Unreachable


_WORDS: Mapping[Cause, _Words] = {
    Cause.AWAY: _Words("", "check that the broker runs and spec.brokers names it{also}"),
    Cause.LOGIN: _Words("the broker does not let the user in", "check spec.security: its mechanism, username and password"),
    Cause.TLS: _Words("no TLS connection", "check spec.security: its protocol, ca_file, cert_file and key_file"),
    Cause.NO_COORDINATOR: _Words(
        "no broker keeps the group or the transactions",
        "wait, if the broker has just started; else see that its offsets.topic.replication.factor,"
        " transaction.state.log.replication.factor and transaction.state.log.min.isr do not exceed the number of brokers",
    ),
    Cause.NO_TRANSACTIONS: _Words(
        "the broker begins no transactions",
        "check that it runs, and that its transaction.state.log.replication.factor and transaction.state.log.min.isr do not"
        " exceed the number of brokers; or set spec.guarantee: at_least_once",
    ),
    Cause.TRANSACTION_TIMEOUT: _Words(
        "the broker allows no transaction of spec.transaction_timeout_s",
        "lower spec.transaction_timeout_s, or raise the broker's transaction.max.timeout.ms",
        BadInput,
    ),
    Cause.SESSION_TIMEOUT: _Words(
        "the broker allows no session of spec.session_timeout_s",
        "choose spec.session_timeout_s between the broker's group.min.session.timeout.ms and group.max.session.timeout.ms",
        BadInput,
    ),
    Cause.OTHER_ASSIGNOR: _Words(
        "the group {group} has a member that shares partitions out another way than cooperative-sticky",
        "stop that consumer, or choose another spec.group",
        Conflict,
    ),
    Cause.GROUP_IN_USE: _Words("the group {group} has members", "stop them first", Conflict),
    Cause.GROUP_FULL: _Words("the group {group} is full", "raise the broker's group.max.size, or lower spec.scaling.max"),
    Cause.GROUP_CHANGED: _Words(
        "the group {group} shared its partitions out anew meanwhile",
        "nothing, it goes on from what is committed; if it happens again and again, raise spec.session_timeout_s",
    ),
    Cause.FENCED: _Words(
        "the transactional id {transactional_id} was taken from this producer",
        "nothing, it goes on from what is committed; if it happens again and again, raise spec.transaction_timeout_s, and see"
        " that no other stream has the same spec.group",
    ),
    Cause.RIGHT_TO_TRANSACTIONS: _Words(
        "no right to the transactional id {transactional_id}",
        "let the stream's user WRITE and DESCRIBE that transactional id, or set spec.guarantee: at_least_once",
    ),
    Cause.RIGHT_TO_GROUP: _Words(
        "no right to the group {group}", "let the stream's user READ and DESCRIBE that group, or choose another spec.group"
    ),
    Cause.RIGHT_TO_TOPIC: _Words(
        "no right to one of the stream's topics ({topics})",
        "let the stream's user READ the input, WRITE output and dead letters, DESCRIBE and DESCRIBE_CONFIGS all of them, and"
        " CREATE those that are missing",
    ),
    Cause.RIGHT_TO_CLUSTER: _Words(
        "no right to the cluster",
        "let the stream's user CREATE topics and, before Kafka 3.0, IDEMPOTENT_WRITE; or make the topics by hand",
    ),
    Cause.NO_TOPIC: _Words("no such topic or partition", "make it, or check the document ({topics})", NotFound),
    Cause.TOO_FEW_REPLICAS: _Words(
        "too few replicas of a topic are in sync", "bring its brokers back, or lower the topic's min.insync.replicas"
    ),
    Cause.TOO_FEW_BROKERS: _Words(
        "a topic would have more replicas than there are brokers",
        "lower the broker's default.replication.factor, or make the topics by hand",
    ),
    Cause.TOO_LARGE: _Words(
        "a topic does not take a record of this size",
        "raise its max.message.bytes and the broker's message.max.bytes, or lower spec.max_record_bytes",
    ),
    Cause.REFUSED_BY_POLICY: _Words(
        "the broker does not take a topic as the stream makes it",
        "make the topics by hand, as the broker's policy asks",
        BadInput,
    ),
    Cause.OLD_BROKER: _Words("the broker does not know what the client asks of it", "use Kafka 2.5 or later"),
    Cause.THROTTLED: _Words("the stream's user is over a quota of the broker", "raise that quota, or wait"),
    Cause.DISK: _Words("the broker has trouble with its disk", "look at the broker's log"),
    Cause.UNFORESEEN: _Words("", "look up this error in the broker's log and in Kafka's documentation"),
}
# kafka-python wraps some of the broker's errors in text, by number or name.
_INSIDE = re.compile(r"\[Error (\d+)\]|'(\w+Error)'")


def broker_error(brokers: str, error: Exception, asker: Asker = UNKNOWN) -> HeadraceError:
    """What a client raised, as an error of the right class."""
    said = client_error_of(error)
    return _worded(_WORDS[cause_of(said)].kind, said, brokers, asker)


def unreachable(brokers: str, error: Exception, asker: Asker = UNKNOWN) -> Unreachable:
    """The same words as Unreachable: what the log of a running stream raises, which is tried again whatever it was."""
    return _worded(Unreachable, client_error_of(error), brokers, asker)


def client_error_of(error: Exception) -> ClientError:
    """What either client's exception holds."""
    inner: Any = error.args[0] if error.args else None
    if callable(getattr(inner, "code", None)):  # librdkafka's KafkaError, which a plain install does not have
        return ClientError(int(inner.code()), str(inner.name()), str(inner.str()))
    name, text = type(error).__name__, str(error)
    number = getattr(error, "errno", None)
    if number is None:
        number = next(map(_number_inside, _INSIDE.finditer(text)), NO_NUMBER)
    return ClientError(int(number), name, text)


def _number_inside(found: re.Match[str]) -> int:
    return int(found[1] or getattr(getattr(kafka_errors, found[2], None), "errno", None) or NO_NUMBER)


def cause_of(said: ClientError) -> Cause:
    """Why it failed."""
    cause = _BY_NUMBER.get(said.number) or _BY_NAME.get(said.name) or Cause.UNFORESEEN
    if cause is Cause.AWAY and any(words in said.text for words in _OPENING_TRANSACTIONS):
        return Cause.NO_TRANSACTIONS
    return cause


def _worded(kind: type[E], said: ClientError, brokers: str, asker: Asker) -> E:
    words = _WORDS[cause_of(said)]
    names = {
        "group": asker.group,
        "transactional_id": asker.transactional_id,
        "topics": ", ".join(asker.topics) or "unknown",
        "also": ", and that it takes the user and certificate of spec.security" if asker.secured else "",
    }
    text = said.text if said.name in said.text else f"{said.name}: {said.text}"
    what = f"{words.what.format(**names)}: {text}" if words.what else text
    return kind(what, where=brokers, remedy=words.remedy.format(**names))
