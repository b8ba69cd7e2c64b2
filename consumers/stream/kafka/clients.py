"""Which Kafka client a stream's worker uses: librdkafka where it is installed, else kafka-python."""

from __future__ import annotations

import importlib.util

from cluster.errors import BadInput
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


def open_log(spec: StreamSpec, brokers: str, member: Member, notes: Notes | None = None) -> Log:
    """The log on Kafka, through the client that the document chooses. Raises as the log itself does.

    Without `notes` it remembers of its topics what the group has committed, and no more.
    """
    notes = notes or NotesInProcess()
    if chosen_client(spec.client) is Client.LIBRDKAFKA:
        from consumers.stream.kafka.librdkafka.log import RdKafkaLog  # an extra: a plain install does not have it

        return RdKafkaLog(spec, brokers, member, notes)
    from consumers.stream.kafka.kafka_python.log import KafkaLog  # not needed where the other one is

    return KafkaLog(spec, brokers, member, notes)
