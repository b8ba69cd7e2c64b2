"""What either client raises is told in the same words: the setting, right or consumer that it is about, and the fitting class."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError as RdKafkaError
from confluent_kafka import KafkaException
from kafka import errors as k

from cluster.errors import BadInput, Conflict, HeadraceError, NotFound, Unreachable
from consumers.stream.kafka.broker_errors import Asker, Cause, asker_of, broker_error, cause_of, client_error_of, unreachable
from consumers.stream.log.port import Member
from consumers.stream.security import Security
from consumers.stream.spec import StreamInput, StreamOutput, StreamSpec, Topic

ASKER = Asker("g", "t-1", ("in", "out", "dead"))


def rdkafka(code: int, text: str = "no") -> KafkaException:
    return KafkaException(RdKafkaError(code, text))


# Of each the error of either client, its class outside of a running stream, and what its message must name.
TOLD: list[tuple[Exception, Exception, type[HeadraceError], tuple[str, ...]]] = [
    (k.KafkaTimeoutError("slow"), rdkafka(RdKafkaError._TIMED_OUT), Unreachable, ("broker runs", "spec.brokers")),
    (k.KafkaConnectionError("cut"), rdkafka(RdKafkaError._TRANSPORT), Unreachable, ("broker runs", "spec.brokers")),
    (k.NodeNotReadyError(1), rdkafka(RdKafkaError._ALL_BROKERS_DOWN), Unreachable, ("broker runs", "spec.brokers")),
    (
        k.KafkaTimeoutError("Timeout expired while initializing transactional state in 20000 ms."),
        rdkafka(RdKafkaError._TIMED_OUT, "Timed out waiting for operation to finish, retry call to resume"),
        Unreachable,
        ("transaction.state.log.replication.factor", "transaction.state.log.min.isr", "at_least_once"),
    ),
    (
        k.CoordinatorNotAvailableError(),
        rdkafka(RdKafkaError.COORDINATOR_NOT_AVAILABLE),
        Unreachable,
        ("offsets.topic.replication.factor", "transaction.state.log.replication.factor"),
    ),
    (
        k.KafkaError("Unexpected error in InitProducerIdResponse: [Error 50] InvalidTransactionTimeoutError"),
        rdkafka(RdKafkaError.INVALID_TRANSACTION_TIMEOUT),
        BadInput,
        ("spec.transaction_timeout_s", "transaction.max.timeout.ms"),
    ),
    (
        k.InvalidSessionTimeoutError(),
        rdkafka(RdKafkaError.INVALID_SESSION_TIMEOUT),
        BadInput,
        ("spec.session_timeout_s", "group.min.session.timeout.ms", "group.max.session.timeout.ms"),
    ),
    (
        k.InconsistentGroupProtocolError(),
        rdkafka(RdKafkaError.INCONSISTENT_GROUP_PROTOCOL),
        Conflict,
        ("the group g ", "cooperative-sticky", "spec.group"),
    ),
    (k.NonEmptyGroupError(), rdkafka(RdKafkaError.NON_EMPTY_GROUP), Conflict, ("the group g has members",)),
    (k.GroupMaxSizeReachedError(), rdkafka(RdKafkaError.GROUP_MAX_SIZE_REACHED), Unreachable, ("group.max.size",)),
    (k.UnknownMemberIdError(), rdkafka(RdKafkaError.UNKNOWN_MEMBER_ID), Unreachable, ("the group g", "goes on")),
    (k.CommitFailedError(), rdkafka(RdKafkaError.ILLEGAL_GENERATION), Unreachable, ("the group g", "goes on")),
    (k.ProducerFencedError(), rdkafka(RdKafkaError._FENCED), Unreachable, ("t-1", "goes on", "spec.group")),
    (
        k.TransactionalIdAuthorizationFailedError(),
        rdkafka(RdKafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        Unreachable,
        ("transactional id t-1", "WRITE", "DESCRIBE"),
    ),
    (
        k.GroupAuthorizationFailedError("g"),
        rdkafka(RdKafkaError.GROUP_AUTHORIZATION_FAILED),
        Unreachable,
        ("the group g", "READ"),
    ),
    (
        k.TopicAuthorizationFailedError({"in"}),
        rdkafka(RdKafkaError.TOPIC_AUTHORIZATION_FAILED),
        Unreachable,
        ("in, out, dead", "READ the input", "WRITE output"),
    ),
    (
        k.KafkaTimeoutError("Topics not ready after 10000ms: {'dead': 'TopicAuthorizationFailedError'}"),
        rdkafka(RdKafkaError.TOPIC_AUTHORIZATION_FAILED),
        Unreachable,
        ("in, out, dead", "READ the input"),
    ),
    (
        k.ClusterAuthorizationFailedError(),
        rdkafka(RdKafkaError.CLUSTER_AUTHORIZATION_FAILED),
        Unreachable,
        ("CREATE topics",),
    ),
    (
        k.SaslAuthenticationFailedError(),
        rdkafka(RdKafkaError._AUTHENTICATION),
        Unreachable,
        ("spec.security", "username and password"),
    ),
    (k.UnsupportedSaslMechanismError(), rdkafka(RdKafkaError._AUTHENTICATION), Unreachable, ("mechanism",)),
    (k.UnknownTopicOrPartitionError(), rdkafka(RdKafkaError._UNKNOWN_TOPIC), NotFound, ("in, out, dead",)),
    (k.NotEnoughReplicasError(), rdkafka(RdKafkaError.NOT_ENOUGH_REPLICAS), Unreachable, ("min.insync.replicas",)),
    (
        k.InvalidReplicationFactorError(),
        rdkafka(RdKafkaError.INVALID_REPLICATION_FACTOR),
        Unreachable,
        ("default.replication.factor",),
    ),
    (
        k.MessageSizeTooLargeError(),
        rdkafka(RdKafkaError.MSG_SIZE_TOO_LARGE),
        Unreachable,
        ("max.message.bytes", "spec.max_record_bytes"),
    ),
    (k.PolicyViolationError(), rdkafka(RdKafkaError.POLICY_VIOLATION), BadInput, ("by hand", "policy")),
    (k.UnsupportedVersionError(), rdkafka(RdKafkaError.UNSUPPORTED_VERSION), Unreachable, ("Kafka 2.5",)),
    (k.KafkaStorageError(), rdkafka(56), Unreachable, ("disk",)),
    (k.ThrottlingQuotaExceededError(), rdkafka(RdKafkaError.THROTTLING_QUOTA_EXCEEDED), Unreachable, ("quota",)),
    (k.UnknownError(), rdkafka(RdKafkaError.UNKNOWN), Unreachable, ("broker's log",)),
]


@pytest.mark.parametrize(("of_python", "of_rdkafka", "kind", "named"), TOLD)
def test_both_clients_errors_are_told_in_the_same_words(
    of_python: Exception, of_rdkafka: Exception, kind: type[HeadraceError], named: tuple[str, ...]
) -> None:
    told = [broker_error("b:1", error, ASKER) for error in (of_python, of_rdkafka)]
    assert told[0].remedy == told[1].remedy
    for error, raised in zip(told, (of_python, of_rdkafka), strict=True):
        assert (type(error), error.where) == (kind, "b:1")
        assert [words for words in named if words not in str(error)] == []
        assert client_error_of(raised).name in error.what
        in_a_log = unreachable("b:1", raised, ASKER)
        assert (type(in_a_log), in_a_log.what, in_a_log.remedy) == (Unreachable, error.what, error.remedy)


def test_every_cause_is_one_that_a_client_can_raise() -> None:
    tried = {cause_of(client_error_of(error)) for of_python, of_rdkafka, _, _ in TOLD for error in (of_python, of_rdkafka)}
    assert set(Cause) - tried == {Cause.TLS}  # which only librdkafka tells apart
    assert "spec.security" in broker_error("b:1", rdkafka(RdKafkaError._SSL)).remedy


def test_the_broker_has_the_same_numbers_in_both_clients() -> None:
    known = [kind for kind in vars(k).values() if isinstance(kind, type) and isinstance(getattr(kind, "errno", None), int)]
    assert len(known) > 100
    differ = [kind for kind in known if cause_of(client_error_of(kind())) is not cause_of(client_error_of(rdkafka(kind.errno)))]
    assert differ == []


def test_where_a_user_or_certificate_is_shown_the_broker_may_refuse_that() -> None:
    plain = StreamSpec(model="m", input=StreamInput(topic="i"), output=StreamOutput(topic="o"), dead_letters=Topic(topic="d"))
    secured = plain.model_copy(update={"security": Security(mechanism="PLAIN", username="u")})
    slow = k.KafkaTimeoutError("Unable to bootstrap")
    assert "spec.security" not in unreachable("b:1", slow, asker_of(plain)).remedy
    assert "spec.security" in unreachable("b:1", slow, asker_of(secured)).remedy


def test_an_asker_is_a_stream_or_one_of_its_members() -> None:
    spec = StreamSpec(model="m", input=StreamInput(pattern="i.*"), output=StreamOutput(topic="o"), dead_letters=Topic(topic="d"))
    assert asker_of(spec, Member("g", "t", "n")) == Asker("g", "t", ("i.*", "o", "d"))
    assert "{" not in str(broker_error("b:1", k.TopicAuthorizationFailedError()))
