"""The log on Apache Kafka through librdkafka (confluent-kafka, the extra `librdkafka`): several times the rate of kafka-python.

Its own threads fetch, send and heartbeat. The caller's thread polls, which is also when the client calls back; one thread of our
own writes and commits.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import compress, count, islice, pairwise, repeat
from operator import itemgetter, ne
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from cluster.errors import Conflict, NotFound, Unreachable
from consumers.stream.epochs import Epochs
from consumers.stream.kafka.broker_errors import asker_of, unreachable
from consumers.stream.kafka.commit_thread import CommitThread, refused
from consumers.stream.kafka.kafka_client import RecordLimits
from consumers.stream.kafka.rdkafka_config import consumer_config, producer_config, rdkafka_config
from consumers.stream.kafka.rdkafka_watch import Watch
from consumers.stream.log import Header, Member, Outgoing, Partition, Records
from consumers.stream.spec import Guarantee, StreamSpec

CALL_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 10.0
EARLY_MAX_ROWS = 100
LAST_POLLS = 100
KEEP_ALIVE_EVERY_S = 0.5

logger = logging.getLogger(__name__)


class RdKafkaLog:
    """See Log. Made in the thread that polls. Raises Unreachable where the broker does not answer."""

    def __init__(self, spec: StreamSpec, brokers: str, member: Member) -> None:
        self._spec, self._brokers, self._member = spec, brokers, member
        self._config = rdkafka_config(brokers, spec.security)
        self._topic = spec.input.names[0] if len(spec.input.names) == 1 else None  # a pattern names none
        self._epochs = Epochs()
        self._watch = Watch(member.group, spec.session_timeout_s / 2)
        self._first: dict[Partition, int] = {}  # where each partition began, for those that have committed nothing yet
        self._taken: dict[Partition, int] = {}
        self._done: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}  # where nothing more was found: also past the marks of transactions
        self._lag: dict[Partition, int] = {}
        self._early: list[Records] = []
        self._paused = False
        self._polled_s = time.monotonic()
        self._fenced = self._closed = False
        self._failed_sends: list[KafkaError] = []
        self._offsets_to_commit: dict[Partition, int] = {}
        self._producer: Producer | None = None
        # It also tells whether the broker is there.
        self._limits = RecordLimits(spec, brokers)
        with self._reaching():
            self._consumer = self._new_consumer()
        try:
            self._producer = self._new_producer()
        except BaseException:
            self._let_go()
            raise
        self._thread = CommitThread()

    def poll(self, *, max_rows: int, timeout_s: float) -> list[Records]:
        """See Log."""
        self._flush_offsets()
        self._resume()
        if self._early:
            early, self._early = self._early, []
            return [records for records in early if records.epoch == self.epoch(records.partition)]
        taken = self._poll(max_rows, timeout_s)
        self._look_at_lag()
        return taken

    def keep_alive(self) -> None:
        """See Log."""
        self._flush_offsets()
        if time.monotonic() - self._polled_s < KEEP_ALIVE_EVERY_S:
            return
        # To pause throws away what was fetched ahead, so that comes last: a poll for one record keeps the member in as well.
        if sum(map(len, self._early)) >= EARLY_MAX_ROWS:
            self._paused = True
            with self._reaching():
                self._consumer.pause(self._consumer.assignment())
        self._early += self._poll(1, 0.0)

    def commit(self, outgoing: Sequence[Outgoing], upto: Mapping[Partition, int]) -> Future[None]:
        """See Log."""
        self._thread.expect_free()
        if any(self.epoch(partition) is None for partition in upto):
            # The broker checks who commits, not for which partitions.
            return refused(Unreachable("the partitions are another member's now", where=self._member.group, remedy="recover"))
        if self._spec.guarantee is Guarantee.EXACTLY_ONCE:
            return self._thread.submit(partial(self._transaction, outgoing, dict(upto), self._consumer.consumer_group_metadata()))
        return self._thread.submit(partial(self._write, outgoing, dict(upto)))

    def recover(self) -> None:
        """See Log."""
        self._drop_producer()
        self._check_name()  # a new producer would fence the member that took over
        self._limits.renew()
        self._producer = self._new_producer()
        self._epochs.renew()
        self._offsets_to_commit.clear()
        self._early.clear()
        with self._reaching():
            # Of the others nothing was handed out yet: the client begins there with what is committed.
            taken = [partition for partition in self._taken if self.epoch(partition) is not None]
            starts = self._committed(taken)
            for partition in taken:
                self._consumer.seek(TopicPartition(*partition, starts[partition]))
        self._taken = starts
        self._ends.clear()

    def trouble(self) -> str:
        """See Log."""
        return self._watch.trouble(owning=bool(self._epochs.now()))

    def epoch(self, partition: Partition) -> int | None:
        """See Log."""
        return self._epochs.of(partition)

    def position(self, partition: Partition) -> int | None:
        """See Log."""
        known = [at[partition] for at in (self._taken, self._ends) if partition in at]
        return max(known) if known and self.epoch(partition) is not None else None

    def partitions_of(self, topic: str) -> int:
        """See Log."""
        with self._reaching():
            found = self._consumer.list_topics(topic, CALL_TIMEOUT_S).topics[topic]
        if found.error is not None or not found.partitions:
            raise NotFound("no such topic", where=topic, remedy="create it, or check the stream's document")
        return len(found.partitions)

    def largest_bytes(self, topic: str) -> int:
        """See Log."""
        return self._limits.of(topic)

    def lag(self) -> dict[Partition, int]:
        """See Log."""
        return dict(self._lag)

    def close(self) -> None:
        """See Log."""
        if self._closed:
            return
        self._closed = True
        self._drop_producer()
        with contextlib.suppress(Unreachable):  # at-least-once offsets: the next member reads the records again
            self._flush_offsets(wait=True)
        freed = self._thread.submit(self._let_go)
        self._thread.end()
        try:
            freed.result(CLOSE_TIMEOUT_S)
        except TimeoutError:
            logger.warning("the client of %s does not end and is left behind", self._member.group)

    def _let_go(self) -> None:
        """Ends the client, which as a static member has nobody to tell that it goes.

        Not by its own `close`: that serves two rebalances where one still waits, and the second asks a thread that answers no
        more, for ever and with the interpreter's lock held (librdkafka #4041 and #4884, seen with 2.16). To drop the last
        reference stops the threads and calls nothing; it waits for ever only where a rebalance still waits, so that is served
        just before.
        """
        consumer = self._consumer
        del self._consumer
        with contextlib.suppress(KafkaException):  # a client that has failed for good serves nothing, and assigns nothing
            consumer.pause(consumer.assignment())
            for _ in range(LAST_POLLS):
                if not consumer.consume(EARLY_MAX_ROWS, 0.0):
                    break

    # --- reading

    def _committed(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """What is committed of each, or where it began."""
        starts: dict[Partition, int] = {}
        asked = [TopicPartition(*partition) for partition in partitions]
        for told in self._consumer.committed(asked, timeout=CALL_TIMEOUT_S) if asked else ():
            if told.error is not None:
                raise KafkaException(told.error)
            partition = Partition(told.topic, told.partition)
            starts[partition] = told.offset if told.offset >= 0 else self._first.get(partition, 0)
        return starts

    def _poll(self, max_rows: int, timeout_s: float) -> list[Records]:
        self._polled_s = time.monotonic()
        with self._reaching():
            # `consume` waits until it has all that it was asked for: only the first record is worth waiting for.
            messages = self._consumer.consume(max_rows, 0.0)
            if not messages and timeout_s > 0:
                messages = self._consumer.consume(1, timeout_s)
                if messages and max_rows > 1:
                    messages += self._consumer.consume(max_rows - 1, 0.0)
            self._check_fatal()
            return self._by_partition(messages)

    def _by_partition(self, messages: list[Message]) -> list[Records]:
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
        epochs = self._epochs.now()
        read = [self._records(partition, epochs[partition], group) for partition, group in groups.items() if partition in epochs]
        stepped: set[Partition] = set()
        return read + [row for message, error in stuck for row in self._at_error(message, error, stepped)]

    def _records(self, partition: Partition, epoch: int, messages: list[Message]) -> Records:
        offsets: list[int] = list(map(Message.offset, messages))  # type: ignore[arg-type]  # never None where there is no error
        self._first.setdefault(partition, offsets[0])
        self._taken[partition] = offsets[-1] + 1
        headers, unreadable = _headers(messages)
        return Records(
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
        if code == KafkaError._PARTITION_EOF:
            self._ends[Partition(str(topic), int(number or 0))] = int(offset or 0)
            return []
        if code not in (KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION) or topic is None or offset is None or offset < 0:
            raise KafkaException(error)
        partition = Partition(topic, int(number or 0))
        epoch = self.epoch(partition)
        if epoch is None or partition in stepped:
            return []
        # Inside a batch of records the client names the batch's first offset, again and again; left to itself it stays there.
        stuck = max(offset, self._taken.get(partition) or self._committed([partition])[partition])
        self._consumer.seek(TopicPartition(*partition, stuck + 1))
        stepped.add(partition)
        self._first.setdefault(partition, stuck)
        self._taken[partition] = stuck + 1
        now_ms = int(time.time() * 1000)
        return [Records(partition, epoch, [stuck], [None], [None], [()], [now_ms], {0: error.str()})]

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            with self._reaching():
                self._consumer.resume(self._consumer.assignment())

    def _look_at_lag(self) -> None:
        lag: dict[Partition, int] = {}
        for partition in self._epochs.now():
            end = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            high = max(end[1], 0) if end else 0
            done = self._done.get(partition, self._first.get(partition, high))
            taken = self._taken.get(partition, done)
            # Nothing in flight: what lies before the end, as last found, are marks of transactions.
            done = max(done, self._ends.get(partition, 0)) if taken <= done else done
            lag[partition] = max(high - done, 0)
        self._lag = lag

    def _new_consumer(self) -> Consumer:
        watched = {"stats_cb": self._watch.on_stats, "error_cb": self._watch.on_error}
        consumer = Consumer({**self._config, **consumer_config(self._spec, self._member), **watched}, logger=logger)
        chosen = self._spec.input
        topics = [f"^({chosen.pattern})$"] if chosen.pattern else list(chosen.names)
        consumer.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)
        return consumer

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._epochs.gain(_ours(partitions))

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        lost = _ours(partitions)
        self._epochs.lose(lost)
        for partition in lost:
            self._taken.pop(partition, None)
            self._ends.pop(partition, None)

    # --- the committing thread

    def _transaction(self, outgoing: Sequence[Outgoing], upto: dict[Partition, int], group: object) -> None:
        producer = self._producer
        assert producer is not None  # noqa: S101  # a commit follows a recover that succeeded
        timeout_s = self._spec.transaction_timeout_s
        with self._reaching():
            producer.begin_transaction()
            # First: this is what waits for the marks of the last transaction; a send that meets them is held for 20 ms.
            producer.send_offsets_to_transaction([TopicPartition(*p, offset) for p, offset in upto.items()], group, timeout_s)
            send(producer, outgoing)
            producer.commit_transaction(timeout_s)
        self._done.update(upto)

    def _write(self, outgoing: Sequence[Outgoing], upto: dict[Partition, int]) -> None:
        producer = self._producer
        assert producer is not None  # noqa: S101  # a commit follows a recover that succeeded
        with self._reaching():
            self._failed_sends.clear()
            send(producer, outgoing)
            left = producer.flush(self._spec.transaction_timeout_s)
            if self._failed_sends:
                raise KafkaException(self._failed_sends[0])
            if left:
                raise Unreachable(f"{left} records were not written in time", where=self._brokers, remedy="look at the broker")
        self._offsets_to_commit.update(upto)  # by the polling thread, which knows what is still ours

    def _on_failed_send(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed_sends.append(error)

    # --- inside

    def _flush_offsets(self, *, wait: bool = False) -> None:
        if not self._offsets_to_commit or self._thread.busy:
            return
        upto = {partition: offset for partition, offset in self._offsets_to_commit.items() if self.epoch(partition) is not None}
        self._offsets_to_commit = {}
        if not upto:
            return
        offsets = [TopicPartition(*partition, offset) for partition, offset in upto.items()]
        with self._reaching():
            if wait:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        self._done.update(upto)

    def _check_fatal(self) -> None:
        if self._watch.fatal is not None:
            raise KafkaException(self._watch.fatal)

    def _check_name(self) -> None:
        """Whether the name is still ours, once the producer was fenced or this process stood still. Raises Conflict, Unreachable.

        The next heartbeat tells; the client sends them all the time.
        """
        began_s = time.monotonic()
        asleep = began_s - self._polled_s > self._spec.session_timeout_s / 2
        until_s = began_s + self._spec.session_timeout_s
        while (self._fenced or asleep) and not self._watch.heard_since(began_s):
            if time.monotonic() > until_s:
                raise Unreachable("the group's broker does not answer", where=self._brokers, remedy="check that the broker runs")
            self._early += self._poll(1, 0.1)
        with self._reaching():
            self._check_fatal()
        self._fenced = False

    def _new_producer(self) -> Producer:
        exactly_once = self._spec.guarantee is Guarantee.EXACTLY_ONCE
        reported = {} if exactly_once else {"on_delivery": self._on_failed_send, "delivery.report.only.error": True}
        config = {**self._config, **producer_config(self._spec, self._member, self._limits.smallest), **reported}
        with self._reaching():
            producer = Producer(config, logger=logger)
            if exactly_once:
                producer.init_transactions(CALL_TIMEOUT_S)
        return producer

    def _drop_producer(self) -> None:
        """Throws the producer away; a commit that hangs in it is left behind with its thread, and ends by its own time limit."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException):
                producer.purge()
        self._thread.leave_behind()

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            told = error.args[0]
            cause = self._watch.fatal if told.code() == KafkaError._FATAL and self._watch.fatal is not None else told
            if cause.code() in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FATAL) and "group.instance.id" in cause.str():
                raise Conflict(
                    "another member of this name took over", where=self._member.instance, remedy="end this one"
                ) from error
            if cause.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED):
                self._fenced = True
            if cause.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                self._limits.refuse()
            raise unreachable(self._brokers, error, asker_of(self._spec, self._member)) from error


def _ours(partitions: Sequence[TopicPartition]) -> list[Partition]:
    return [Partition(each.topic, each.partition) for each in partitions]


def runs(messages: Sequence[Message], topic: str | None = None) -> Iterator[tuple[Partition, Sequence[Message]]]:
    """The messages in stretches of one partition each, in order; a fetch brings hundreds of one partition at a time.

    `topic` is theirs where there can be no other.
    """
    columns: list[Any] = list(map(Message.partition, messages))
    if topic is None:
        columns = list(zip(map(Message.topic, messages), columns, strict=True))
    changes = compress(count(1), map(ne, columns, islice(columns, 1, None)))
    for start, end in pairwise([0, *changes, len(messages)]):
        if start < end:
            first = messages[start]
            yield Partition(topic or str(first.topic()), int(first.partition() or 0)), messages[start:end]


def _headers(messages: Sequence[Message]) -> tuple[list[Sequence[Header]], dict[int, str]]:
    """The headers of each, and why those rows have none whose headers are no text.

    At such headers the client sets an error and returns a list with holes in it, which must never be looked at: `map` sees the
    error, where the interpreter's own calls of methods may not. And a message must not be asked twice.
    """
    unreadable: dict[int, str] = {}
    found: list[Any] = []
    ask = map(Message.headers, messages)
    while len(found) < len(messages):
        try:
            found.extend(ask)  # what came before an error is kept
        except SystemError:
            unreadable[len(found)] = "a header's name is no UTF-8"
            found.append(None)
    return ([headers or () for headers in found] if any(found) else [()] * len(found)), unreadable


def send(producer: Producer, outgoing: Sequence[Outgoing]) -> None:
    """Hands the records to the producer, in order; waits for room in its queue where that is full."""
    for out in outgoing:
        columns: list[Sequence[Any]] = [out.values, out.keys, out.timestamps_ms, out.headers]
        sent = 0
        while sent < len(out):
            values, keys, times_ms, headers = (islice(column, sent, None) for column in columns)
            same = repeat(out.partition), repeat(None), repeat(None)
            try:
                for _ in map(producer.produce, repeat(out.topic), values, keys, *same, times_ms, headers):
                    sent += 1
            except BufferError:  # the queue is full: what is in it goes out meanwhile
                producer.poll(0.05)
