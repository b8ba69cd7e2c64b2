"""Reads a topic of late labels and tells the controller: at least once, and by the controller's marks each record once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import CorruptRecordError, KafkaError  # type: ignore[import-untyped]

from cluster.commands.labels import LABEL, Label, LabelsTold, TellLabels
from cluster.control_plane import ControlPlane
from cluster.errors import HeadraceError, NotFound, Unreachable
from consumers.stream.breaker import backoff_s
from consumers.stream.kafka.admin import Admin
from consumers.stream.kafka.broker_errors import Asker, unreachable
from consumers.stream.kafka.kafka_python.client import client_config, topics_of
from consumers.stream.kafka.kafka_python.inside import stuck_at
from consumers.stream.labels.records import labels_in
from consumers.stream.spec import LabelTopic, StreamSpec

_logger = logging.getLogger(__name__)

POLL_S = 0.5
LABELS_AT_ONCE = 5_000
STOP_S = 10.0


class LabelReader:
    """Of one stream, on a thread of its own. Whatever fails, it begins anew with what its group has committed.

    Its group is the stream's with `-labels`. An offset is committed once the controller has saved what came before it, and each
    label is sent with its offset, under the topic's own id: what is read again is not counted again.
    """

    def __init__(self, stream: str, spec: StreamSpec, topic: LabelTopic, brokers: str, control: ControlPlane) -> None:
        self._stream, self._spec, self._topic, self._brokers, self._control = stream, spec, topic, brokers, control
        self._group = f"{spec.group_of(stream)}-labels"
        self._asker = Asker(self._group, topics=(topic.topic,), secured=spec.security.mechanism is not None)
        self._stop = threading.Event()
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="labels", daemon=True)
        self._trouble = ""

    def start(self) -> None:
        """Begins to read; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends in bounded time; what was not committed is read again by the next one."""
        self._stop.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            try:
                self._read()
            except KafkaError as error:
                failure: HeadraceError = unreachable(self._brokers, error, self._asker)
            except OSError as error:
                failure = Unreachable(f"{type(error).__name__}: {error}", where=self._brokers, remedy="check spec.security")
            except HeadraceError as error:
                failure = error
            else:
                return
            attempt = attempt + 1 if self._trouble else 1
            if str(failure) != self._trouble:
                _logger.warning("stream %s takes no labels now: %s", self._stream, failure)
            self._trouble = str(failure)
            self._stop.wait(backoff_s(attempt))

    @property
    def trouble(self) -> str:
        """Why no labels are taken now; empty where they are. From any thread."""
        if not self._thread.is_alive() and not self._stop.is_set():
            return "the thread that reads them has ended: see the replica's log"
        return self._trouble

    def _read(self) -> None:
        """Until it is stopped. Raises whatever goes wrong."""
        topic_id = self._topic_id()
        consumer = KafkaConsumer(
            self._topic.topic,
            **client_config(self._brokers, self._spec.security),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        following: dict[TopicPartition, int] = {}
        try:
            while not self._stop.is_set():
                try:
                    polled = consumer.poll(timeout_ms=round(1000 * POLL_S), max_records=LABELS_AT_ONCE)
                except CorruptRecordError:
                    self._step_over(consumer, topic_id)
                    continue
                for part, records in polled.items():
                    if records[0].offset < following.get(part, 0):
                        remedy = "nothing: it is read from its beginning"
                        raise Unreachable("the topic was made anew", where=f"topic {self._topic.topic}", remedy=remedy)
                    self._tell_records(part.partition, topic_id, records)
                    following[part] = records[-1].offset + 1
                if polled:
                    consumer.commit()
                self._trouble = ""
        finally:
            consumer.close(autocommit=False)

    def _topic_id(self) -> str:
        admin = Admin(self._brokers, self._spec.security, self._asker)
        try:
            with admin.asking() as client:
                found = topics_of(client, [self._topic.topic]).get(self._topic.topic)
        finally:
            admin.close()
        if found is None:
            raise NotFound(
                "there is no such topic", where=f"topic {self._topic.topic}", remedy="make it, or correct labels.topic"
            )
        return found.id

    def _step_over(self, consumer: KafkaConsumer, topic_id: str) -> None:
        """What the client can't read, as a header's name that is no UTF-8: it would stay there for ever."""
        part, offset = stuck_at(consumer)
        self._tell(part.partition, topic_id, (), offset, unreadable=1)
        consumer.seek(part, offset + 1)
        consumer.commit()

    def _tell_records(self, partition: int, topic_id: str, records: Sequence[Any]) -> None:
        labels, unreadable = labels_in(records, self._topic)
        self._tell(partition, topic_id, labels, records[-1].offset, unreadable=unreadable)

    def _tell(self, partition: int, topic_id: str, labels: tuple[Label, ...], offset: int, *, unreadable: int) -> None:
        request = TellLabels(
            model=self._spec.model,
            labels=labels,
            source=f"kafka/{self._topic.topic}/{topic_id}/{partition}",
            sequence=offset,
            unreadable=unreadable,
        )
        answer = asyncio.run(self._control.call(LABEL.name, request.model_dump(mode="json")))
        told = LabelsTold.model_validate(answer)
        for reason in (*told.reasons, *([f"{unreadable} could not be read"] if unreadable else [])):
            self._tell_once(reason)

    def _tell_once(self, reason: str) -> None:
        kind = reason.partition(" ")[2]
        if kind not in self._told:
            self._told.add(kind)
            _logger.warning(
                "stream %s, labels of %s: %s; further ones are counted only: headrace_label_faults_total",
                self._stream,
                self._topic.topic,
                reason,
            )
