"""Workers of a stream as processes, on real topics, so that tests can kill and freeze them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from consumers.stream.spec import Client
from tests.support.stream_topics import Topics, small_stream

PARTITIONS = 4


@dataclass
class Pipeline:
    """Topics of their own, and workers by rank."""

    topics: Topics
    workers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    owners: set[int] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)
    revived: int = 0

    @contextmanager
    def supervised(self, *ranks: int) -> Iterator[None]:
        """Starts a worker again that ended by itself, as Serve does with its replicas."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.2):
                with self.lock:
                    for rank in ranks:
                        if self.workers[rank].poll() is not None:
                            self.workers[rank].communicate()
                            self.start(rank)
                            self.revived += 1

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def start(self, rank: int) -> None:
        self.owners.discard(rank)
        document = self.topics.spec.model_dump_json()
        command = [sys.executable, "-m", "tests.support.stream_worker", document, self.topics.brokers, str(rank)]
        self.workers[rank] = subprocess.Popen(command, stdout=subprocess.PIPE)

    def await_owner(self, rank: int) -> None:
        """Returns once the worker has had partitions."""
        if rank in self.owners:
            return
        out = self.workers[rank].stdout
        assert out is not None
        said = out.readline()
        assert said == b"owns\n", f"worker {rank} said {said!r}"
        self.owners.add(rank)

    def signal(self, rank: int, number: int) -> None:
        os.kill(self.workers[rank].pid, number)

    def kill(self, rank: int) -> None:
        worker = self.workers.pop(rank)
        worker.kill()
        worker.communicate()

    def restart(self, rank: int) -> None:
        """Kills a worker and starts another in its place."""
        with self.lock:
            self.kill(rank)
            self.start(rank)

    def stop(self, rank: int) -> int:
        """Its exit status. One that has only just begun would end by the signal itself: it has partitions first."""
        self.await_owner(rank)
        worker = self.workers[rank]
        worker.terminate()
        try:
            worker.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            worker.send_signal(signal.SIGUSR1)  # its threads' stacks, into its standard error
            with suppress(subprocess.TimeoutExpired):
                worker.wait(2)  # before it is killed
            raise
        del self.workers[rank]  # not before: one that hangs is killed at the end
        return int(worker.returncode)


@contextmanager
def pipeline_on(brokers: str, client: Client, **settings: Any) -> Iterator[Pipeline]:
    """A pipeline without workers yet; those left at the end are killed. `settings` of the spec replace the usual ones."""
    spec = small_stream(brokers, client, PARTITIONS, **{"max_batch_rows": 50, "transaction_timeout_s": 10, **settings})
    made = Pipeline(Topics(brokers, spec, lambda i: orjson.dumps({"x": [i, 0, 0]})))
    try:
        yield made
    finally:
        for rank in list(made.workers):
            made.kill(rank)
        made.topics.close()
