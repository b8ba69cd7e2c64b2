"""The log on Apache Kafka through librdkafka (confluent-kafka, the extra `librdkafka`): several times the rate of kafka-python.

Its own threads fetch, send and heartbeat. The caller's thread polls, which is also when the client calls back; one thread of our
own writes and commits.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from operator import itemgetter

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from cluster.errors import Conflict, Unreachable
from consumers.stream.kafka.broker_errors import asker_of, unreachable
from consumers.stream.kafka.commit_thread import CommitThread, record_refused, refused
from consumers.stream.kafka.librdkafka.batches import headers_of, runs, send
from consumers.stream.kafka.librdkafka.config import consumer_config, producer_config, rdkafka_config
from consumers.stream.kafka.librdkafka.watch import Watch
from consumers.stream.kafka.reading import Reading
from consumers.stream.kafka.topic_settings import TopicSettings
from consumers.stream.kafka.topic_watch import TopicWatch
from consumers.stream.kafka.written_topics import WrittenTopics
from consumers.stream.log.port import Member, Outgoing, Owned, Partition, Records, Takes
from consumers.stream.log.starts import Notes, Start, metadata_of
from consumers.stream.spec import Guarantee, StreamSpec

CALL_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 10.0
EARLY_MAX_ROWS = 100
LAST_POLLS = 100
KEEP_ALIVE_EVERY_S = 0.5
OUT_OF_RANGE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
REFUSALS = (KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP, *TOO_LARGE)  # of a record for what it is

logger = logging.getLogger(__name__)


class RdKafkaLog:
    """See Log. Made in the thread that polls. Raises Unreachable where the broker does not answer."""

    def __init__(self, spec: StreamSpec, brokers: str, member: Member, notes: Notes) -> None:
        self._spec, self._brokers, self._member = spec, brokers, member
        self._config = rdkafka_config(brokers, spec.security)
        self._topic = spec.input.names[0] if len(spec.input.names) == 1 else None  # a pattern names none
        self._watch = Watch(member.group, spec.session_timeout_s / 2)
        self._topic_watch = TopicWatch(spec, brokers, member, notes)
        self._reading = Reading(self._topic_watch)
        self._given: set[Partition] = set()  # those that the client was given to read
        self._early: list[Records] = []
        self._paused = False
        self._polled_s = time.monotonic()
        self._fenced = self._closed = False
        self._failed_sends: list[KafkaError] = []
        self._offsets_to_commit: dict[Partition, TopicPartition] = {}
        self._starting: tuple[dict[Partition, int], Future[None]] | None = None
        self._producer: Producer | None = None
        # It also tells whether the broker is there.
        self._settings = TopicSettings(spec, brokers)
        self._written = WrittenTopics.find(spec, brokers, member.group, notes)
        with self._reaching():
            self._consumer = self._new_consumer()
        try:
            self._producer = self._new_producer()
        except BaseException:
            self._let_go()
            raise
        self._thread = CommitThread()
        self._topic_watch.begin()

    def poll(self, *, max_rows: int, timeout_s: float) -> list[Records]:
        """See Log."""
        self._flush_offsets()
        self._resume()
        if self._early:
            early, self._early = self._early, []
            return [records for records in early if records.epoch == self.epoch(records.partition)]
        return self._poll(max_rows, timeout_s)

    def keep_alive(self) -> None:
        """See Log."""
        self._flush_offsets()
        if time.monotonic() - self._polled_s < KEEP_ALIVE_EVERY_S:
            return
        # To pause throws away what was fetched ahead, so that comes last: a poll for one record keeps the member in as well.
        if sum(map(len, self._early)) >= EARLY_MAX_ROWS:
            self._paused = True
            with self._reaching():
                self._consumer.pause(self._read_ones())
        self._early += self._poll(1, 0.0)

    def commit(self, outgoing: Sequence[Outgoing], upto: Mapping[Partition, int]) -> Future[None]:
        """See Log."""
        self._flush_offsets()  # should this one fail, the last one's records are done all the same
        # The generation first: one that is newer than our look at the partitions would let us commit what is ours no more.
        group = self._consumer.consumer_group_metadata()
        if any(self.epoch(partition) is None for partition in upto):
            # The broker checks who commits, not for which partitions.
            return refused(Unreachable("the partitions are another member's now", where=self._member.group, remedy="recover"))
        offsets = [_offset(partition, offset, self._reading.topic_id(partition)) for partition, offset in upto.items()]
        if self._spec.guarantee is Guarantee.EXACTLY_ONCE:
            return self._thread.submit(partial(self._transaction, outgoing, offsets, group))
        return self._thread.submit(partial(self._write, outgoing, offsets))

    def recover(self) -> None:
        """See Log."""
        self._drop_producer()
        self._check_name()  # a new producer would fence the member that took over
        self._settings.renew()
        self._producer = self._new_producer()
        with contextlib.suppress(Unreachable):  # at-least-once offsets: their records come again
            self._flush_offsets(wait=True)
        self._early.clear()
        with self._reaching():
            self._pause(self._reading.go_back())

    def trouble(self) -> str:
        """See Log."""
        return self._watch.trouble(owning=self._reading.owns)

    def epoch(self, partition: Partition) -> int | None:
        """See Log."""
        return self._reading.epoch(partition)

    def position(self, partition: Partition) -> int | None:
        """See Log."""
        return self._reading.position(partition)

    def partitions_of(self, topic: str) -> int:
        """See Log."""
        return self._written.partitions_of(topic)

    def takes(self, topic: str) -> Takes:
        """See Log."""
        return self._settings.of(topic)

    def owned(self) -> dict[Partition, Owned]:
        """See Log."""
        return self._reading.owned()

    def close(self) -> None:
        """See Log."""
        if self._closed:
            return
        self._closed = True
        self._topic_watch.close()
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

    def _poll(self, max_rows: int, timeout_s: float) -> list[Records]:
        self._polled_s = time.monotonic()
        if self._producer is not None:
            self._begin_due()
        with self._reaching():
            # `consume` waits until it has all that it was asked for: only the first record is worth waiting for.
            messages = self._consumer.consume(max_rows, 0.0)
            if not messages and timeout_s > 0:
                messages = self._consumer.consume(1, timeout_s)
                if messages and max_rows > 1:
                    messages += self._consumer.consume(max_rows - 1, 0.0)
            self._check_fatal()
            return self._by_partition(messages)

    def _begin_due(self) -> None:
        """Begins to read those partitions of which it is known by now where."""
        moved = self._reading.moved()
        due = self._reading.due(self._commit_starts)
        with self._reaching():
            self._pause(moved)
            for partition, offset in due.items():
                self._begin_at(partition, TopicPartition(*partition, offset))

    def _begin_at(self, partition: Partition, part: TopicPartition) -> None:
        if partition in self._given:
            try:
                self._consumer.seek(part)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._STATE:
                    raise
                # The client has stopped to fetch it, as where its topic was made anew. A waiting rebalance is served right after.
                self._consumer.incremental_unassign([part])
                self._given.remove(partition)
        if partition not in self._given:
            self._consumer.incremental_assign([part])
            self._given.add(partition)
        self._consumer.resume([part])

    def _pause(self, partitions: Iterable[Partition]) -> None:
        if given := [TopicPartition(*partition) for partition in partitions if partition in self._given]:
            self._consumer.pause(given)

    def _commit_starts(self, starts: Mapping[Partition, Start]) -> Future[None]:
        group = self._consumer.consumer_group_metadata()
        offsets = [_offset(partition, start.offset, start.topic_id) for partition, start in starts.items()]
        if self._spec.guarantee is Guarantee.EXACTLY_ONCE:
            # As a transaction, so that it can't come late: what is sent after it would be undone by a plain commit.
            return self._thread.submit_start(partial(self._transaction, (), offsets, group))
        # By this thread: the client lets one call at a time in, and another thread's would wait behind our polls for ever.
        self._starting = _upto(offsets), Future()
        with self._reaching():
            self._consumer.commit(offsets=offsets, asynchronous=True)
        return self._starting[1]

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Called by the client on the thread that polls."""
        if self._starting is None or self._starting[0] != _upto(offsets):
            return
        (_, future), self._starting = self._starting, None
        failed = error or next((each.error for each in offsets if each.error is not None), None)
        if failed is None:
            future.set_result(None)
        else:
            future.set_exception(
                Unreachable(f"{failed.name()}: {failed.str()}", where=self._member.group, remedy="it is tried again")
            )

    def _read_ones(self) -> list[TopicPartition]:
        return [part for part in self._consumer.assignment() if self._reading.is_read(Partition(part.topic, part.partition))]

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
        if code == KafkaError._PARTITION_EOF:
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
        if code not in (KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION) or expected is None or offset is None or offset < 0:
            raise KafkaException(error)
        if partition in stepped:
            return []
        # Inside a batch of records the client names the batch's first offset, again and again; left to itself it stays there.
        stuck = max(offset, expected)
        self._consumer.seek(TopicPartition(*partition, stuck + 1))
        stepped.add(partition)
        taken = self._reading.take(partition, [stuck])
        if taken is None:
            return []
        now_ms = int(time.time() * 1000)
        return [Records(partition, taken[0], [stuck], [None], [None], [()], [now_ms], {0: error.str()})]

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            with self._reaching():
                self._consumer.resume(self._read_ones())

    def _new_consumer(self) -> Consumer:
        watched = {"stats_cb": self._watch.on_stats, "error_cb": self._watch.on_error, "on_commit": self._on_commit}
        consumer = Consumer({**self._config, **consumer_config(self._spec, self._member), **watched}, logger=logger)
        chosen = self._spec.input
        topics = [f"^({chosen.pattern})$"] if chosen.pattern else list(chosen.names)
        consumer.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)
        return consumer

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The client gets none of them yet: where they begin is found meanwhile, and is not its to say.

        Nor is it given a place that it would have to look up: should that answer come after a seek, it looks again, and what it
        finds then takes the place of what was sought (`rd_kafka_toppar_handle_Offset`, of an answer that is outdated).
        """
        consumer.incremental_assign([])
        self._reading.gain(_ours(partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        lost = _ours(partitions)
        self._reading.lose(lost)
        given = [partition for partition in lost if partition in self._given]
        self._given -= set(given)
        consumer.incremental_unassign([TopicPartition(*partition) for partition in given])

    # --- the committing thread

    def _transaction(self, outgoing: Sequence[Outgoing], offsets: list[TopicPartition], group: object) -> None:
        producer = self._producer
        assert producer is not None  # noqa: S101  # a commit follows a recover that succeeded
        timeout_s = self._spec.transaction_timeout_s
        with self._reaching():
            producer.begin_transaction()
            # First: this is what waits for the marks of the last transaction; a send that meets them is held for 20 ms.
            producer.send_offsets_to_transaction(offsets, group, timeout_s)
            try:
                send(producer, outgoing)
            except KafkaException as error:
                # The transaction has failed meanwhile: any call but a send says why.
                if error.args[0].code() == KafkaError._STATE:
                    producer.send_offsets_to_transaction(offsets, group, timeout_s)
                raise
            producer.commit_transaction(timeout_s)
        self._reading.commit(_upto(offsets))

    def _write(self, outgoing: Sequence[Outgoing], offsets: list[TopicPartition]) -> None:
        producer = self._producer
        assert producer is not None  # noqa: S101  # a commit follows a recover that succeeded
        with self._reaching():
            self._failed_sends.clear()
            send(producer, outgoing)
            left = producer.flush(self._spec.transaction_timeout_s)
            if self._failed_sends:
                told = [error for error in self._failed_sends if error.code() in REFUSALS] or self._failed_sends
                raise KafkaException(told[0])
            if left:
                raise Unreachable(f"{left} records were not written in time", where=self._brokers, remedy="look at the broker")
        # By the polling thread, which knows what is still ours.
        self._offsets_to_commit.update({Partition(each.topic, each.partition): each for each in offsets})

    def _on_failed_send(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed_sends.append(error)

    # --- inside

    def _flush_offsets(self, *, wait: bool = False) -> None:
        if not self._offsets_to_commit or self._thread.busy:
            return
        offsets = [each for partition, each in self._offsets_to_commit.items() if self.epoch(partition) is not None]
        self._offsets_to_commit = {}
        if not offsets:
            return
        with self._reaching():
            if wait:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        self._reading.commit(_upto(offsets))

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
        config = {**self._config, **producer_config(self._spec, self._member, self._settings.smallest), **reported}
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
            if cause.code() in REFUSALS:
                self._settings.refuse()
                too_large = cause.code() in TOO_LARGE
                raise record_refused(f"{cause.name()}: {cause.str()}", self._brokers, too_large=too_large) from error
            raise unreachable(self._brokers, error, asker_of(self._spec, self._member)) from error


def _ours(partitions: Sequence[TopicPartition]) -> list[Partition]:
    return [Partition(each.topic, each.partition) for each in partitions]


def _offset(partition: Partition, offset: int, topic_id: str) -> TopicPartition:
    return TopicPartition(*partition, offset, metadata=metadata_of(topic_id))


def _upto(offsets: Sequence[TopicPartition]) -> dict[Partition, int]:
    return {Partition(each.topic, each.partition): each.offset for each in offsets}
