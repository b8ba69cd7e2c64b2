"""A real broker, real worker processes, real kill -9: every record comes out once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson
import pytest

from consumers.stream.kafka_client import ensure_topics
from consumers.stream.spec import Client, Guarantee, Input, Output, StreamSpec, Topic
from tests.stream_topics import Topics

PARTITIONS = 4


@dataclass
class Pipeline:
    """Topics of their own, and workers as processes."""

    topics: Topics
    workers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, rank: int) -> None:
        document = self.topics.spec.model_dump_json()
        command = [sys.executable, "-m", "tests.stream_worker", document, self.topics.brokers, str(rank)]
        self.workers[rank] = subprocess.Popen(command, stdout=subprocess.PIPE)

    def await_owner(self, rank: int) -> None:
        """Returns once the worker has partitions."""
        out = self.workers[rank].stdout
        assert out is not None
        assert out.readline() == b"owns\n"

    def signal(self, rank: int, number: int) -> None:
        os.kill(self.workers[rank].pid, number)

    def kill(self, rank: int) -> None:
        worker = self.workers.pop(rank)
        worker.kill()
        worker.communicate()

    def stop(self, rank: int) -> int:
        worker = self.workers.pop(rank)
        worker.terminate()
        worker.communicate(timeout=60)
        return int(worker.returncode)


@pytest.fixture(params=[Client.KAFKA_PYTHON, Client.LIBRDKAFKA])
def pipeline(broker: str, request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    tag = uuid.uuid4().hex[:8]
    spec = StreamSpec(
        model="m",
        input=Input(topic=f"in-{tag}", partitions=PARTITIONS),
        output=Output(topic=f"out-{tag}", partitions=PARTITIONS),
        dead_letters=Topic(topic=f"dead-{tag}", partitions=1),
        guarantee=Guarantee.EXACTLY_ONCE,
        client=request.param,
        group=f"group-{tag}",
        max_batch_rows=50,
        session_timeout_s=6,
        transaction_timeout_s=10,
    )
    ensure_topics(spec, broker)
    made = Pipeline(Topics(broker, spec, lambda i: orjson.dumps({"x": [i, 0, 0]})))
    yield made
    for rank in list(made.workers):
        made.kill(rank)
    made.topics.close()


def test_a_worker_that_is_killed_loses_and_doubles_nothing(pipeline: Pipeline) -> None:
    topics = pipeline.topics
    topics.publish(4000)
    pipeline.start(0)
    for reached in (300, 1200, 2000):
        topics.wait_for(reached)
        pipeline.kill(0)
        pipeline.start(0)
    topics.publish(1000)
    topics.wait_for(4900)
    assert pipeline.stop(0) == 0
    topics.check()


def test_workers_that_come_and_go_lose_and_double_nothing(pipeline: Pipeline) -> None:
    topics = pipeline.topics
    topics.publish(3000)
    pipeline.start(0)
    topics.wait_for(500)
    pipeline.start(1)
    pipeline.await_owner(1)
    topics.publish(3000)
    topics.wait_for(3500)
    pipeline.kill(0)
    topics.wait_for(4500)
    assert pipeline.stop(1) == 0
    pipeline.start(2)
    pipeline.await_owner(2)
    topics.wait_for(5880)
    assert pipeline.stop(2) == 0
    topics.check()


def test_a_worker_that_wakes_up_after_its_successor_took_over_changes_nothing(pipeline: Pipeline) -> None:
    """Stopped for longer than its session, then woken: its half-done transaction is void, and it must not fence the other."""
    topics = pipeline.topics
    topics.publish(2000)
    pipeline.start(0)
    topics.wait_for(300)
    pipeline.signal(0, signal.SIGSTOP)
    zombie = pipeline.workers.pop(0)
    pipeline.start(0)
    pipeline.workers[9] = zombie
    topics.wait_for(1000)
    pipeline.signal(9, signal.SIGCONT)
    assert zombie.wait(60) != 0  # fenced: it ends by itself
    topics.publish(1000)
    topics.wait_for(2940)
    assert pipeline.stop(0) == 0
    topics.check()
