"""Where a payload log lies: Parquet files, or a topic."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from cluster.signature import Signature
from cluster.watch.payloads import Payloads, PayloadTopic
from consumers.payload_replay.recorded import RecordedRequest, payload_files, recorded

TOPIC = "topic:"


def requests_of(
    payloads: str, model: str, signature: Signature, settings: Payloads | None, brokers: str | None = None
) -> Iterator[RecordedRequest]:
    """The requests to the model that lie there: at a path, any URI, or `topic:NAME`.

    Where the topic is that of the model's own `settings`, their brokers and logins are used; `brokers` are others. Raises
    NotFound at once where a path has no Parquet file.
    """
    if not payloads.startswith(TOPIC):
        files = payload_files(payloads)
        return chain.from_iterable(recorded(file, model, signature) for file in files)
    # Files are read without a Kafka client.
    from consumers.stream.payloads.recorded_topic import recorded_topic

    name = payloads.removeprefix(TOPIC)
    topic = settings.kafka if settings is not None else None
    if topic is None or topic.topic != name:
        topic = PayloadTopic(topic=name)
    return recorded_topic(topic.model_copy(update={"brokers": brokers}) if brokers else topic, model, signature)
