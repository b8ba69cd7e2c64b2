"""One record on a topic, by a client of its own: for what is told now and then, and must be kept."""

from __future__ import annotations

from kafka import KafkaProducer  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from cluster.errors import Unreachable
from consumers.stream.kafka.kafka_python.client import client_config, producer_limits
from consumers.stream.security import Security

WAIT_S = 10.0  # for the broker, for all of it


def send_record(brokers: str, topic: str, key: bytes, value: bytes, security: Security | None = None) -> None:
    """Returns once all replicas of the topic that keep up have it. Blocks. Raises Unreachable where they have not in time."""
    producer = None
    try:
        producer = KafkaProducer(
            **client_config(brokers, security or Security()),
            **producer_limits(WAIT_S),
            acks="all",
        )
        producer.send(topic, key=key, value=value).get(timeout=WAIT_S)
    except (KafkaError, OSError, ValueError) as error:
        remedy = "see that the broker is there, has the topic, and lets this user write to it"
        raise Unreachable(
            f"the broker did not take it ({type(error).__name__})", where=f"topic {topic}", remedy=remedy
        ) from error
    finally:
        if producer is not None:
            producer.close(timeout=1)
