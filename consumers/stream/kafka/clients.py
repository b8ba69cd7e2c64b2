"""The log on Kafka, through the client that a stream's document chooses: librdkafka where it is installed, else kafka-python."""

from __future__ import annotations

import importlib.util

from cluster.errors import BadInput
from consumers.stream.kafka.admin import Admin
from consumers.stream.kafka.broker_errors import asker_of
from consumers.stream.kafka.making_topics import make_topics
from consumers.stream.kafka.member import GroupReader, GroupWriter, KafkaLog, StreamTopics
from consumers.stream.kafka.reading import Reading
from consumers.stream.kafka.topic_settings import TopicSettings
from consumers.stream.kafka.topic_watch import TopicWatch
from consumers.stream.kafka.written_topics import WrittenTopics
from consumers.stream.log.port import Log, Member
from consumers.stream.log.starts import Notes, NotesInProcess
from consumers.stream.spec import Client, StreamSpec


def chosen_client(wanted: Client) -> Client:
    """Never AUTO. Raises BadInput where the one that is asked for is not installed."""
    installed = importlib.util.find_spec("confluent_kafka") is not None
    if wanted is Client.AUTO:
        return Client.LIBRDKAFKA if installed else Client.KAFKA_PYTHON
    if wanted is Client.LIBRDKAFKA and not installed:
        raise BadInput("librdkafka is not installed", where="spec.client", remedy="install headrace[librdkafka] on every node")
    return wanted


def open_log(spec: StreamSpec, brokers: str, member: Member, notes: Notes | None = None, *, making_topics: bool = False) -> Log:
    """Blocks; to be called in the thread that will poll. Raises Unreachable, NotFound and BadInput, and as `notes` do.

    `making_topics`: those that are missing are made first. Without `notes` it remembers of its topics what the group has
    committed, and no more.
    """
    notes = notes or NotesInProcess()
    admin = Admin(brokers, spec.security, asker_of(spec, member))
    try:
        topics = _topics_of(spec, admin, member, notes, making_topics=making_topics)
        reading = Reading(topics.watch)
        reader, writer = _client_of(spec, brokers, member, reading, topics.settings)
        return KafkaLog(member, spec.guarantee, topics, reading, reader, writer)
    except BaseException:
        admin.close()
        raise


def _topics_of(spec: StreamSpec, admin: Admin, member: Member, notes: Notes, *, making_topics: bool) -> StreamTopics:
    """One connection for all that is asked: until the log is open by this thread, from then on by that of the watch."""
    if making_topics:
        make_topics(spec, admin)
    settings = TopicSettings(spec, admin)
    written = WrittenTopics.find(spec, admin, member.group, notes)
    return StreamTopics(TopicWatch(spec, admin, member, notes), settings, written)


def _client_of(
    spec: StreamSpec, brokers: str, member: Member, reading: Reading, settings: TopicSettings
) -> tuple[GroupReader, GroupWriter]:
    if chosen_client(spec.client) is Client.LIBRDKAFKA:
        return _librdkafka(spec, brokers, member, reading, settings)
    return _kafka_python(spec, brokers, member, reading, settings)


def _librdkafka(
    spec: StreamSpec, brokers: str, member: Member, reading: Reading, settings: TopicSettings
) -> tuple[GroupReader, GroupWriter]:
    # An extra: a plain install does not have it.
    from consumers.stream.kafka.librdkafka.errors import RdKafkaErrors
    from consumers.stream.kafka.librdkafka.reader import RdKafkaReader
    from consumers.stream.kafka.librdkafka.statistics import ClientStatistics
    from consumers.stream.kafka.librdkafka.writer import RdKafkaWriter

    statistics = ClientStatistics(member.group, spec.session_timeout_s / 2)
    translating = RdKafkaErrors(spec, brokers, member, statistics, settings.refuse)
    return RdKafkaReader(spec, brokers, member, reading, translating, statistics), RdKafkaWriter(
        spec, brokers, member, translating
    )


def _kafka_python(
    spec: StreamSpec, brokers: str, member: Member, reading: Reading, settings: TopicSettings
) -> tuple[GroupReader, GroupWriter]:
    # Not needed where the other one is.
    from consumers.stream.kafka.kafka_python.errors import KafkaErrors
    from consumers.stream.kafka.kafka_python.reader import KafkaReader
    from consumers.stream.kafka.kafka_python.writer import KafkaWriter

    translating = KafkaErrors(spec, brokers, member, settings.refuse)
    return KafkaReader(spec, brokers, member, reading, translating), KafkaWriter(spec, brokers, member, translating)
