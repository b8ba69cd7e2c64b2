"""What goes wrong under a stream, done for real: processes killed and frozen, connections cut and slowed."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil
from kafka import KafkaConsumer, TopicPartition

from consumers.stream.spec import Client
from headrace.local.broker import LocalBroker, start_broker, stop_broker
from headrace.local.ports import free_port
from tests.support.broker import jar_cache
from tests.support.stream_topics import WAIT_S
from tests.support.stream_workers import Pipeline, pipeline_on
from tests.support.tcp_proxy import TcpProxy, proxied
from tests.support.waiting import until

FROZEN_S = 8.0  # longer than the session timeout of 6 s
SLOW_S = 5.0
RANKS = (0, 1)
LOAD_RECORDS = 100
ANOTHER = 7


@dataclass
class Site:
    """A broker behind a relay, and two workers. Every fault returns when it is over, not when it is overcome."""

    home: Path
    port: int
    broker: LocalBroker
    proxy: TcpProxy
    proxy_port: int
    random: Random

    @property
    def brokers(self) -> str:
        return f"127.0.0.1:{self.proxy_port}"

    def restart(self) -> None:
        self.broker = start_broker(self.home, port=self.port, advertised_port=self.proxy_port, cache=jar_cache())

    def kill_worker(self, pipeline: Pipeline) -> None:
        pipeline.restart(self.random.choice(RANKS))

    def freeze_worker(self, pipeline: Pipeline) -> None:
        """Its partitions go to the other; woken, its transaction is void, and it takes its place again."""
        rank = self.random.choice(RANKS)
        pipeline.signal(rank, signal.SIGSTOP)
        _pass(FROZEN_S)
        pipeline.signal(rank, signal.SIGCONT)

    def kill_broker(self, _: Pipeline) -> None:
        os.kill(self.broker.pid, signal.SIGKILL)
        until(lambda: not stop_broker(self.home) and is_free(self.port), WAIT_S)  # its threads still hold it for a moment
        self.restart()

    def fill_disk(self, _: Pipeline) -> None:
        """No file of the broker may grow, so every write fails as on a full disk. It gives up; then there is room again."""
        process = psutil.Process(self.broker.pid)
        _, most = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (0, most))
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, WAIT_S)
        until(lambda: not stop_broker(self.home) and is_free(self.port), WAIT_S)
        self.restart()

    def freeze_broker(self, _: Pipeline) -> None:
        os.kill(self.broker.pid, signal.SIGSTOP)
        _pass(FROZEN_S)
        os.kill(self.broker.pid, signal.SIGCONT)

    def cut(self, _: Pipeline) -> None:
        """All connections at once, three times: in the middle of fetches, sends and commits."""
        for _ in range(3):
            self.proxy.cut()
            _pass(self.random.uniform(0.1, 0.8))

    def refuse(self, _: Pipeline) -> None:
        """No way to the broker for longer than a session."""
        self.proxy.open = False
        self.proxy.cut()
        _pass(FROZEN_S)
        self.proxy.open = True

    def slow(self, _: Pipeline) -> None:
        self.proxy.delay_s = 0.05
        _pass(SLOW_S)
        self.proxy.delay_s = 0.0

    def rebalance(self, pipeline: Pipeline) -> None:
        """A third worker comes and goes while the others commit."""
        pipeline.start(ANOTHER)
        pipeline.await_owner(ANOTHER)
        ended = pipeline.stop(ANOTHER)
        assert ended == 0, ended

    def add_partition(self, pipeline: Pipeline) -> None:
        """The input grows while it is read."""
        pipeline.topics.add_partition()
        pipeline.topics.publish(LOAD_RECORDS)

    def freeze_under_load(self, pipeline: Pipeline) -> None:
        """A worker stands still while records keep coming, and something else goes wrong meanwhile."""
        frozen, other = self.random.sample(RANKS, 2)
        meanwhile = (self.add_partition, self.cut, lambda _: pipeline.restart(other), lambda _: None)
        pipeline.signal(frozen, signal.SIGSTOP)
        with pipeline.topics.load(LOAD_RECORDS):
            _pass(self.random.uniform(0.0, FROZEN_S))
        self.random.choice(meanwhile)(pipeline)
        with pipeline.topics.load(LOAD_RECORDS):
            _pass(FROZEN_S)
        pipeline.signal(frozen, signal.SIGCONT)

    @property
    def faults(self) -> dict[str, Callable[[Pipeline], None]]:
        """All, by name."""
        every = (
            self.kill_worker,
            self.freeze_worker,
            self.kill_broker,
            self.fill_disk,
            self.freeze_broker,
            self.cut,
            self.refuse,
            self.slow,
            self.rebalance,
            self.add_partition,
            self.freeze_under_load,
        )
        return {fault.__name__: fault for fault in every}


@contextmanager
def site(home: Path, seed: int) -> Iterator[Site]:
    """A broker of our own, since it is killed."""
    port, proxy_port = free_port(), free_port()
    try:
        broker = start_broker(home, port=port, advertised_port=proxy_port, cache=jar_cache())
        with proxied(proxy_port, port) as proxy:
            yield Site(home, port, broker, proxy, proxy_port, Random(seed))
    finally:
        stop_broker(home)


def play(where: Site, client: Client, names: list[str], *, records: int, say: Callable[[str], None]) -> None:
    """One fault after the other in the middle of work; after each, all is out once and in order, and the lag is 0."""
    with pipeline_on(where.brokers, client) as pipeline:
        for rank in RANKS:
            pipeline.start(rank)
        for rank in RANKS:
            pipeline.await_owner(rank)
        with pipeline.supervised(*RANKS):
            for name in names:
                _overcome(where, pipeline, name, records, lambda told, name=name: say(f"{client}: {name}: {told}"))  # type: ignore[misc]
        ended = [pipeline.stop(rank) for rank in RANKS]
        assert ended == [0, 0], ended


def _overcome(where: Site, pipeline: Pipeline, name: str, records: int, say: Callable[[str], None]) -> None:
    topics, revived = pipeline.topics, pipeline.revived
    before = topics.outputs()
    topics.publish(records)
    topics.wait_for(before + records // 10)
    say("begins")
    where.faults[name](pipeline)
    ended_s, out = time.monotonic(), topics.outputs()
    if out < topics.published * 49 // 50:
        topics.wait_for(out + 1)
        say(f"answers again {time.monotonic() - ended_s:.1f} s after its end")
    topics.check()
    until(lambda: group_lag(where.brokers, pipeline) == 0, WAIT_S)
    took_s = time.monotonic() - ended_s
    say(f"all out, once and in order, after {took_s:.1f} s; {pipeline.revived - revived} workers ended by themselves")


def group_lag(brokers: str, pipeline: Pipeline) -> int:
    """What the group has not committed, as the broker tells it."""
    spec = pipeline.topics.spec
    consumer = KafkaConsumer(bootstrap_servers=brokers, group_id=spec.group, enable_auto_commit=False)
    try:
        there = range(spec.input.partitions + pipeline.topics.added)
        partitions = [TopicPartition(spec.input.topic, number) for number in there]
        ends = consumer.end_offsets(partitions)
        return sum(ends[partition] - (consumer.committed(partition) or 0) for partition in partitions)
    finally:
        consumer.close()


def is_free(port: int) -> bool:
    """Whether a server may listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _pass(seconds: float) -> None:
    """Lets time pass, which is what the fault consists of."""
    threading.Event().wait(seconds)
