"""A real Kafka of several brokers, each of which can be killed and come back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kafka.admin import KafkaAdminClient

from headrace.local.broker import HOST, LocalBroker, Seat, seats, start_broker, stop_broker
from headrace.local.ports import free_port
from tests.support.broker import jar_cache
from tests.support.broker_admin import administered
from tests.support.stream_faults import is_free
from tests.support.waiting import until

GONE_S = 60.0
IN_SYNC_S = 120.0


@dataclass
class BrokerCluster:
    """Brokers by number, from 1; each has its home in a folder of that name."""

    folder: Path
    seats: tuple[Seat, ...]
    ports: dict[int, int]
    running: dict[int, LocalBroker] = field(default_factory=dict)

    @property
    def brokers(self) -> str:
        """All their addresses, as clients take them."""
        return ",".join(f"{HOST}:{port}" for port in self.ports.values())

    def start(self, number: int) -> None:
        """Starts one, on what it kept; returns once it takes connections."""
        seat = self.seats[number - 1]
        self.running[number] = start_broker(self._home(number), port=self.ports[number], seat=seat, cache=jar_cache())

    def kill(self, number: int) -> None:
        """As a machine that loses its power. Returns when its port is free."""
        os.kill(self.running.pop(number).pid, signal.SIGKILL)
        until(lambda: not stop_broker(self._home(number)) and is_free(self.ports[number]), GONE_S)

    def await_in_sync(self) -> None:
        """Returns once every partition has all its copies."""
        with administered(self.brokers) as admin:
            until(lambda: _in_sync(admin), IN_SYNC_S, every_s=0.2)

    def close(self) -> None:
        """Ends all at a time: what is left alone waits for the others."""
        with ThreadPoolExecutor(len(self.ports)) as side_by_side:
            list(side_by_side.map(lambda number: stop_broker(self._home(number)), self.ports))

    def _home(self, number: int) -> Path:
        return self.folder / str(number)


def _in_sync(admin: KafkaAdminClient) -> bool:
    partitions = [partition for topic in admin.describe_topics() for partition in topic["partitions"]]
    return all(len(each["isr_nodes"]) == len(each["replica_nodes"]) for each in partitions)


@contextmanager
def broker_cluster(folder: Path, count: int = 3) -> Iterator[BrokerCluster]:
    """A cluster of that many, ended with the block."""
    made = BrokerCluster(folder, seats(count), {number: free_port() for number in range(1, count + 1)})
    try:
        with ThreadPoolExecutor(count) as side_by_side:
            list(side_by_side.map(made.start, made.ports))
        yield made
    finally:
        made.close()
