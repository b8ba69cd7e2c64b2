"""Payload events on a topic, as one client writes them: not in transactions, and as good as the broker takes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kafka import KafkaProducer  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]
from pydantic import ValidationError

from cluster.errors import BadInput, HeadraceError, Unreachable
from cluster.findings import first_finding
from cluster.watch.payloads import PayloadForm, PayloadTopic
from consumers.stream.kafka.kafka_python.client import brokers_of_environment, client_config, producer_limits
from consumers.stream.security import Security
from deployments.observe.payloads.cloudevents import of_kserve, of_ours
from deployments.observe.payloads.event import PayloadEvent
from deployments.observe.payloads.sink import SinkResult

WAIT_S = 10.0  # for the broker, for all of one write
LARGEST_BYTES = 64 << 20  # the topic's own limit is below that, and says no by itself


class TopicPayloads:
    """Implements PayloadSink. The client is made at the first write, and anew after a failure."""

    gather_s = 0.5

    def __init__(self, topic: PayloadTopic, make: Callable[[], KafkaProducer] | None = None) -> None:
        """`make` stands for the client where it is given. Raises BadInput for a `security` that makes no sense."""
        self._topic = topic
        self._make = make or _maker(topic)
        self._records = of_kserve if topic.form is PayloadForm.KSERVE else of_ours
        self._producer: KafkaProducer | None = None

    def write(self, events: Sequence[PayloadEvent]) -> SinkResult:
        """See PayloadSink. A broker that does not answer costs at most some seconds, and all these events."""
        try:
            return self._written(events)
        except (KafkaError, OSError, ValueError) as error:
            # Never its text: a client may put what it could not send into it.
            self.close()
            return SinkResult(0, self._away(type(error).__name__))
        except HeadraceError as error:
            self.close()
            return SinkResult(0, error)

    def close(self) -> None:
        """See PayloadSink."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=1)

    def _written(self, events: Sequence[PayloadEvent]) -> SinkResult:
        producer = self._producer = self._producer or self._make()
        until_s = time.monotonic() + WAIT_S
        sent = []
        for event in events:
            records = self._records(event)
            sent.append([producer.send(self._topic.topic, key=r.key, value=r.value, headers=r.headers) for r in records])
        kept, failure = 0, ""
        for futures in sent:
            try:
                for future in futures:
                    future.get(timeout=max(until_s - time.monotonic(), 0.001))
            except KafkaError as error:
                failure = type(error).__name__
            else:
                kept += 1
        if failure and not kept:
            self.close()
        return SinkResult(kept, self._away(failure) if failure else None)

    def _away(self, name: str) -> HeadraceError:
        remedy = "see that the broker is there, has the topic, and lets this user write records so large to it"
        return Unreachable(f"the broker did not take them ({name})", where=f"topic {self._topic.topic}", remedy=remedy)


def _maker(topic: PayloadTopic) -> Callable[[], KafkaProducer]:
    try:
        security = Security.model_validate(topic.security)
    except ValidationError as error:
        remedy = "correct payloads.kafka.security in the Model document"
        raise BadInput(str(first_finding(error)), where=f"topic {topic.topic}", remedy=remedy) from None
    brokers = topic.brokers or brokers_of_environment()

    def make() -> KafkaProducer:
        return KafkaProducer(
            **client_config(brokers, security),
            **producer_limits(WAIT_S),
            max_request_size=LARGEST_BYTES,
            compression_type="lz4",
            linger_ms=5,
            acks=1,
            enable_idempotence=False,
        )

    return make


def open_topic(topic: PayloadTopic) -> TopicPayloads:
    """See OpenTopic. Raises BadInput."""
    return TopicPayloads(topic)
