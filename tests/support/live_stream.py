"""A stream of the live service's model, under records that keep coming, and the labels of its answers."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from ray import serve

from cluster.commands.documents import Apply, FeedDocument
from cluster.commands.feeds import FeedName
from cluster.commands.labels import Label, TellLabels
from cluster.commands.rollouts import RolloutView
from cluster.errors import Conflict
from consumers.stream.outgoing.answers import LABEL_KEY_HEADER, VERSION_HEADER
from consumers.stream.spec import Format, LabelTopic, StreamInput, StreamOutput, StreamSpec, Topic
from deployments.engines.load import load_engine
from tests.support.live import Artifact, Service
from tests.support.models import INPUT, OUTPUT, rows
from tests.support.stream_topics import KEYS, WAIT_S, Topics
from tests.support.waiting import until

RECORDS, EVERY_S = 50, 0.5
PARTITIONS = 2


def row_of(number: int) -> np.ndarray:
    """The record's row: every 21st is bright, which some versions can't bear; of every 80 records, 40 are marked."""
    row = rows(1, seed=7)[0]
    row[0] = 0.9 if number % 21 == 3 else 0.1
    row[1] = 0.9 if number // 40 % 2 else 0.1
    return row


@dataclass
class Events:
    """Numbered records on their way through the stream `name`. `truth` is what stable says of each, by (bright, marked)."""

    service: Service
    name: str
    topics: Topics
    truth: dict[tuple[bool, bool], int]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self) -> None:
        """No record is lost, doubled or out of order, and only those that are none are dead letters."""
        with self.lock:
            self.topics.check()

    def versions(self) -> dict[bytes, int]:
        """Which version answered the newest record of each key, as far as answers come in while it looks."""
        seen: dict[bytes, int] = {}
        with self._reader() as reader:
            end = time.monotonic() + 240
            while len(seen) < KEYS and time.monotonic() < end:
                for records in reader.poll(timeout_ms=200).values():
                    seen |= {record.key: int(dict(record.headers)[VERSION_HEADER]) for record in records}
        return seen

    @contextmanager
    def _reader(self) -> Iterator[KafkaConsumer]:
        """Reads what is answered from now on."""
        reader = KafkaConsumer(bootstrap_servers=self.topics.brokers, isolation_level="read_committed")
        try:
            reader.assign([TopicPartition(self.topics.spec.output.topic, number) for number in range(PARTITIONS)])
            yield reader
        finally:
            reader.close()

    def label_keys(self, count: int) -> list[str]:
        """Those of so many answers that come from now on."""
        found: list[str] = []
        end = time.monotonic() + WAIT_S
        with self._reader() as reader:
            while len(found) < count and time.monotonic() < end:
                for records in reader.poll(timeout_ms=200).values():
                    headers = [dict(record.headers) for record in records]
                    found += [each[LABEL_KEY_HEADER].decode() for each in headers if LABEL_KEY_HEADER in each]
        return found[:count]

    def tell_on_topic(self, labels: list[Label]) -> None:
        """Writes them to the stream's topic of labels."""
        wanted = self.topics.spec.labels
        assert wanted is not None
        producer = KafkaProducer(bootstrap_servers=self.topics.brokers)
        for label in labels:
            producer.send(wanted.topic, orjson.dumps({wanted.key: label.key, wanted.value: label.label}))
        producer.close()

    def label_until_ended(self, candidate: int) -> RolloutView:
        """Tells what was true of the answers, as soon as each is out, until the rollout of the candidate has ended."""
        topic, end = self.topics.spec.output.topic, time.monotonic() + 240
        with self._reader() as reader:
            while time.monotonic() < end:
                rollout = self.service.control.rollout(self.service.name)
                if rollout is not None and rollout.candidate == candidate and rollout.ended_s is not None:
                    return rollout
                for place, records in reader.poll(timeout_ms=200).items():
                    headers = [dict(record.headers) for record in records]
                    labels = [
                        Label(key=each[LABEL_KEY_HEADER].decode(), label=self._truth(int(each["n"])))
                        for each in headers
                        if LABEL_KEY_HEADER in each
                    ]
                    if labels:
                        self._tell(labels, f"{topic}/{place.partition}", records[-1].offset)
        raise AssertionError(f"never ended; last: {rollout}")

    def _tell(self, labels: list[Label], source: str, sequence: int) -> None:
        request = TellLabels(model=self.service.name, labels=tuple(labels), source=source, sequence=sequence)
        try:
            told = self.service.control.tell_labels(request)
        except Conflict:
            return  # the rollout has ended meanwhile
        assert told.refused == 0, told.reasons

    def _truth(self, number: int) -> int:
        row = row_of(number)
        return self.truth[bool(row[0] > 0.5), bool(row[1] > 0.5)]


@contextmanager
def streaming(service: Service, brokers: str, artifact: Artifact) -> Iterator[Events]:
    """A stream of the service's model, ended at the end. `artifact` is the stable version."""
    tag = uuid.uuid4().hex[:6]
    spec = StreamSpec(
        model=service.name,
        brokers=brokers,
        input=StreamInput(topic=f"live-in-{tag}", format=Format.RAW, partitions=PARTITIONS),
        output=StreamOutput(topic=f"live-out-{tag}", format=Format.RAW, partitions=PARTITIONS),
        dead_letters=Topic(topic=f"live-dead-{tag}", partitions=1),
        labels=LabelTopic(topic=f"live-truth-{tag}", partitions=1),
        resources={"cpus": 0.1},  # type: ignore[arg-type]  # as a document would say it
    )
    name = FeedName(kind="stream", name=f"live-{tag}")
    document = FeedDocument(kind="stream", name=name.name, model=service.name, spec=spec.model_dump(mode="json"))
    service.control.apply(Apply(feeds=(document,)))
    until(lambda: service.control.feed(name).status == "ready", WAIT_S)
    topics = Topics(brokers, spec, lambda number: bytes(row_of(number).astype("<f4").tobytes()))
    events, stop = Events(service, name.name, topics, _truth(artifact)), threading.Event()

    def publish() -> None:
        while not stop.wait(EVERY_S):
            with events.lock:
                topics.publish(RECORDS)

    publisher = threading.Thread(target=publish, name="publisher")
    publisher.start()
    try:
        yield events
    finally:
        stop.set()
        publisher.join()
        topics.close()
        service.control.pause_feed(name)
        until(lambda: f"stream--{name.name}" not in serve.status().applications, WAIT_S)


def _truth(artifact: Artifact) -> dict[tuple[bool, bool], int]:
    engine = load_engine(Path(artifact[0]))
    truth = {}
    for number in range(21 * 80):
        row = row_of(number)
        place = bool(row[0] > 0.5), bool(row[1] > 0.5)
        if place not in truth:
            truth[place] = int(engine.score({INPUT: row[np.newaxis]})[OUTPUT].argmax())
    assert 0 not in truth.values()  # which is what the mistaken version says
    return truth
