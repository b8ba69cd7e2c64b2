"""Reading as a member of a group, through librdkafka (confluent-kafka, the extra `librdkafka`).

Its own threads fetch and heartbeat; it calls back only while the caller's thread polls.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from cluster.errors import Unreachable
from consumers.stream.kafka.commit_thread import CommitThread
from consumers.stream.kafka.librdkafka import codes
from consumers.stream.kafka.librdkafka.config import consumer_config, rdkafka_config
from consumers.stream.kafka.librdkafka.errors import RdKafkaErrors
from consumers.stream.kafka.librdkafka.incoming import Incoming
from consumers.stream.kafka.librdkafka.offsets import partition_of, to_client, upto_of
from consumers.stream.kafka.librdkafka.statistics import ClientStatistics
from consumers.stream.kafka.member import Offsets
from consumers.stream.kafka.reading import Reading
from consumers.stream.log.port import Member, Partition, Records
from consumers.stream.spec import StreamSpec

CLOSE_TIMEOUT_S = 10.0
EARLY_MAX_ROWS = 100
LAST_POLLS = 100

logger = logging.getLogger(__name__)


class RdKafkaReader:
    """See GroupReader."""

    def __init__(
        self,
        spec: StreamSpec,
        brokers: str,
        member: Member,
        reading: Reading,
        translating: RdKafkaErrors,
        statistics: ClientStatistics,
    ) -> None:
        self._brokers, self._member, self._reading, self._translating, self._statistics = (
            brokers,
            member,
            reading,
            translating,
            statistics,
        )
        self._session_s = spec.session_timeout_s
        topic = spec.input.names[0] if len(spec.input.names) == 1 else None  # a pattern names none
        self._incoming = Incoming(reading, topic, pause=self.pause, seek=self._seek)
        self._given: set[Partition] = set()  # those that the client was given to read
        self._paused = False
        self._starting: tuple[dict[Partition, int], Future[None]] | None = None
        self.polled_s = time.monotonic()
        with self._translating():
            self._consumer = self._new_consumer(spec)

    def poll(self, max_rows: int, timeout_s: float) -> list[Records]:
        """See GroupReader."""
        if self._paused:
            self._paused = False
            with self._translating():
                self._consumer.resume(self._read_ones())
        return self._poll(max_rows, timeout_s)

    def stay(self, held_rows: int) -> list[Records]:
        """See GroupReader. A pause throws away what was fetched ahead, so it comes last."""
        if held_rows >= EARLY_MAX_ROWS:
            self._paused = True
            with self._translating():
                self._consumer.pause(self._read_ones())
        return self._poll(1, 0.0)

    def begin(self, due: Mapping[Partition, int]) -> None:
        """See GroupReader."""
        with self._translating():
            for partition, offset in due.items():
                self._begin_at(partition, TopicPartition(*partition, offset))

    def pause(self, partitions: Sequence[Partition]) -> None:
        """See GroupReader."""
        if given := [TopicPartition(*partition) for partition in partitions if partition in self._given]:
            with self._translating():
                self._consumer.pause(given)

    def group(self) -> object:
        """See GroupReader."""
        return self._consumer.consumer_group_metadata()

    def commit(self, offsets: Offsets, *, wait: bool) -> None:
        """See GroupReader."""
        with self._translating():
            if wait:
                self._consumer.commit(offsets=to_client(offsets), asynchronous=False)
            else:
                self._consumer.commit(offsets=to_client(offsets), asynchronous=True)

    def commit_starts(self, offsets: Offsets) -> Future[None]:
        """See GroupReader. The client lets one call at a time in: another thread's would wait behind our polls for ever."""
        self._starting = {partition: to.offset for partition, to in offsets.items()}, Future()
        self.commit(offsets, wait=False)
        return self._starting[1]

    def trouble(self) -> str:
        """See GroupReader."""
        return self._statistics.trouble(owning=self._reading.owns)

    def check_name(self) -> None:
        """See GroupReader: needed once a producer was fenced, or this process stood still.

        The next heartbeat tells; the client sends them all the time. What is polled meanwhile comes again after the recovery.
        """
        began_s = time.monotonic()
        asleep = began_s - self.polled_s > self._session_s / 2
        until_s = began_s + self._session_s
        while (self._translating.fenced or asleep) and not self._statistics.answered_since(began_s):
            if time.monotonic() > until_s:
                raise Unreachable("the group's broker does not answer", where=self._brokers, remedy="check that the broker runs")
            self._poll(1, 0.1)
        with self._translating():
            self._check_fatal()
        self._translating.fenced = False

    def close(self, *, quickly: bool = False) -> None:  # noqa: ARG002  # it never takes long
        """See GroupReader."""
        thread = CommitThread()
        freed = thread.submit(self._let_go)
        thread.end()
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

    # --- polling

    def _poll(self, max_rows: int, timeout_s: float) -> list[Records]:
        self.polled_s = time.monotonic()
        with self._translating():
            # `consume` waits until it has all that it was asked for: only the first record is worth waiting for.
            messages = self._consumer.consume(max_rows, 0.0)
            if not messages and timeout_s > 0:
                messages = self._consumer.consume(1, timeout_s)
                if messages and max_rows > 1:
                    messages += self._consumer.consume(max_rows - 1, 0.0)
            self._check_fatal()
            return self._incoming.records(messages)

    def _check_fatal(self) -> None:
        if self._statistics.fatal is not None:
            raise KafkaException(self._statistics.fatal)

    # --- what it reads

    def _seek(self, partition: Partition, offset: int) -> None:
        self._consumer.seek(TopicPartition(*partition, offset))

    def _read_ones(self) -> list[TopicPartition]:
        return [part for part in self._consumer.assignment() if self._reading.is_read(partition_of(part))]

    def _begin_at(self, partition: Partition, part: TopicPartition) -> None:
        if partition in self._given:
            try:
                self._consumer.seek(part)
            except KafkaException as error:
                if error.args[0].code() != codes.STATE:
                    raise
                # The client has stopped to fetch it, as where its topic was made anew. A waiting rebalance is served right after.
                self._consumer.incremental_unassign([part])
                self._given.remove(partition)
        if partition not in self._given:
            self._consumer.incremental_assign([part])
            self._given.add(partition)
        self._consumer.resume([part])

    def _new_consumer(self, spec: StreamSpec) -> Consumer:
        watched = {"stats_cb": self._statistics.on_stats, "error_cb": self._statistics.on_error, "on_commit": self._on_commit}
        config = {**rdkafka_config(self._brokers, spec.security), **consumer_config(spec, self._member), **watched}
        consumer = Consumer(config, logger=logger)
        chosen = spec.input
        topics = [f"^({chosen.pattern})$"] if chosen.pattern else list(chosen.names)
        consumer.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)
        return consumer

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The client gets none of them yet: where they begin is found meanwhile, and is not its to say.

        Nor is it given a place that it would have to look up: should that answer come after a seek, it looks again, and what it
        finds then takes the place of what was sought (`rd_kafka_toppar_handle_Offset`, of an answer that is outdated).
        """
        consumer.incremental_assign([])
        self._reading.gain(map(partition_of, partitions))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        lost = list(map(partition_of, partitions))
        self._reading.lose(lost)
        given = [partition for partition in lost if partition in self._given]
        self._given -= set(given)
        consumer.incremental_unassign([TopicPartition(*partition) for partition in given])

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Called by the client on the thread that polls."""
        if self._starting is None or self._starting[0] != upto_of(offsets):
            return
        (_, future), self._starting = self._starting, None
        failed = error or next((each.error for each in offsets if each.error is not None), None)
        if failed is None:
            future.set_result(None)
        else:
            future.set_exception(
                Unreachable(f"{failed.name()}: {failed.str()}", where=self._member.group, remedy="it is tried again")
            )
