"""What librdkafka hands out, as records: its messages by partition, and what it puts among them where it can't read on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter

from confluent_kafka import KafkaError, KafkaException, Message

from consumers.stream.kafka.librdkafka import codes
from consumers.stream.kafka.librdkafka.batches import headers_of, runs
from consumers.stream.kafka.reading import Reading
from consumers.stream.log.port import Partition, Records

OUT_OF_RANGE = (codes.NO_OFFSET, KafkaError.OFFSET_OUT_OF_RANGE)
UNREADABLE = (codes.BAD_MESSAGE, codes.BAD_COMPRESSION)


class Incoming:
    """Of one member; `topic` is that of all records, where there can be no other. Used from the thread that polls."""

    def __init__(
        self,
        reading: Reading,
        topic: str | None,
        *,
        pause: Callable[[Sequence[Partition]], None],
        seek: Callable[[Partition, int], None],
    ) -> None:
        self._reading, self._topic, self._pause, self._seek = reading, topic, pause, seek

    def records(self, messages: list[Message]) -> list[Records]:
        """By partition, in order, without what was taken before. Raises KafkaException where the client can't go on by itself."""
        if not messages:
            return []
        stuck: list[tuple[Message, KafkaError]] = []
        if any(map(Message.error, messages)):
            errors = list(map(Message.error, messages))
            stuck = [(message, error) for message, error in zip(messages, errors, strict=True) if error is not None]
            messages = [message for message, error in zip(messages, errors, strict=True) if error is None]
        groups: dict[Partition, list[Message]] = {}
        for partition, run in runs(messages, self._topic):
            groups.setdefault(partition, []).extend(run)
        read = [records for partition, group in groups.items() for records in self._records(partition, group)]
        stepped: set[Partition] = set()
        return read + [row for message, error in stuck for row in self._at_error(message, error, stepped)]

    def _records(self, partition: Partition, messages: list[Message]) -> Iterator[Records]:
        offsets: list[int] = list(map(Message.offset, messages))  # type: ignore[arg-type]  # never None where there is no error
        taken = self._reading.take(partition, offsets)
        if taken is None:
            return
        epoch, again = taken
        if again:
            messages, offsets = messages[again:], offsets[again:]
        headers, unreadable = headers_of(messages)
        yield Records(
            partition,
            epoch,
            offsets,
            list(map(Message.key, messages)),
            list(map(Message.value, messages)),
            headers,
            list(map(itemgetter(1), map(Message.timestamp, messages))),
            unreadable,
        )

    def _at_error(self, message: Message, error: KafkaError, stepped: set[Partition]) -> list[Records]:
        """What the client puts among the records. A record that can't be read is a row that says so, one a poll and partition."""
        code, offset = error.code(), message.offset()
        topic, number = message.topic(), message.partition()
        partition = Partition(str(topic), int(number or 0))
        if code == codes.PARTITION_EOF:
            self._reading.reach(partition, int(offset or 0))
            return []
        expected = self._reading.position(partition)
        if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:  # of a whole topic, whatever partition the client names
            raise KafkaException(error)
        if topic is not None and expected is None:
            return []  # it is not read yet, or no more
        if code in OUT_OF_RANGE and expected is not None:
            # What was to come next exists no more: where it goes on is not the client's to say.
            self._pause(self._reading.go_back({partition}))
            return []
        if code not in UNREADABLE or expected is None or offset is None or offset < 0:
            raise KafkaException(error)
        if partition in stepped:
            return []
        # Inside a batch of records the client names the batch's first offset, again and again; left to itself it stays there.
        stuck = max(offset, expected)
        self._seek(partition, stuck + 1)
        stepped.add(partition)
        taken = self._reading.take(partition, [stuck])
        if taken is None:
            return []
        now_ms = int(time.time() * 1000)
        return [Records(partition, taken[0], [stuck], [None], [None], [()], [now_ms], {0: error.str()})]
