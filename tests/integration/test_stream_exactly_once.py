"""A real broker, real worker processes, real kill -9: every record comes out once."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from consumers.stream.spec import Client
from tests.support.stream_workers import Pipeline, pipeline_on


@pytest.fixture(params=[Client.KAFKA_PYTHON, Client.LIBRDKAFKA])
def pipeline(broker: str, request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    with pipeline_on(broker, request.param) as made:
        yield made


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
