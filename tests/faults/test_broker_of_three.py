"""A Kafka of three brokers loses one under streams that promise exactly once: no record is lost or doubled, and the rest goes on.

Brokers are killed until each role was: leader of an input, coordinator of transactions, coordinator of a group. Two streams run
through it, one a client. Prints how long each took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from consumers.stream.spec import Client
from headrace.doctor.problem import Weight
from tests.support.broker_admin import administered
from tests.support.broker_cluster import BrokerCluster, broker_cluster
from tests.support.diagnosed import diagnosed
from tests.support.stream_faults import group_lag
from tests.support.stream_topics import WAIT_S
from tests.support.stream_workers import Pipeline, pipeline_on
from tests.support.waiting import until

pytestmark = [pytest.mark.proof, pytest.mark.timeout(480)]
CLIENTS = (Client.KAFKA_PYTHON, Client.LIBRDKAFKA)
RECORDS = 50  # four times a second
ROLES = ("leads the input", "keeps transactions", "keeps the group")
Role = tuple[Client, str]


def roles(brokers: str, pipelines: Sequence[Pipeline]) -> Mapping[int, set[Role]]:
    """What each broker does for each stream, by the brokers' own words."""
    found: dict[int, set[Role]] = {}
    with administered(brokers) as admin:
        for one in pipelines:
            spec = one.topics.spec
            (described,) = admin.describe_topics([spec.input.topic])
            for partition in described["partitions"]:
                found.setdefault(partition["leader_id"], set()).add((spec.client, ROLES[0]))
            found.setdefault(coordinator(admin, f"{spec.group}-0", "transaction"), set()).add((spec.client, ROLES[1]))
            found.setdefault(coordinator(admin, str(spec.group), "group"), set()).add((spec.client, ROLES[2]))
    return found


def coordinator(admin: KafkaAdminClient, name: str, kind: str) -> int:
    return int(admin._manager.run(admin._find_coordinator_ids, [name], kind)[name])


def test_a_broker_of_three_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as ends:
        kafka = ends.enter_context(broker_cluster(tmp_path))
        pipelines = [ends.enter_context(pipeline_on(kafka.brokers, client)) for client in CLIENTS]
        for one in pipelines:
            one.start(0)
        for one in pipelines:
            one.await_owner(0)
        with ExitStack() as loads:
            for one in pipelines:
                loads.enter_context(one.topics.load(RECORDS))
            for line in lose_until_all_roles_were(kafka, pipelines, tmp_path / "home"):
                with capsys.disabled():
                    sys.stdout.write(f"\n  {line}")
                    sys.stdout.flush()
        for one in pipelines:
            one.topics.check()  # nothing lost, doubled or out of order
            until(lambda one=one: group_lag(kafka.brokers, one) == 0, WAIT_S)
        assert [one.stop(0) for one in pipelines] == [0, 0]  # none has ended by itself


def lose_until_all_roles_were(kafka: BrokerCluster, pipelines: Sequence[Pipeline], home: Path) -> Iterator[str]:
    """One broker after the other, that of most roles first; what each took, in words."""
    wanted = set(ROLES)
    while wanted:
        kafka.await_in_sync()
        has = roles(kafka.brokers, pipelines)
        met = {number: {role for _, role in found} & wanted for number, found in has.items()}
        victim = max(met, key=lambda number: (len(met[number]), len(has[number])))
        assert met[victim]
        told = lose(kafka, victim, pipelines, home if wanted == set(ROLES) else None)
        wanted -= met[victim]
        yield f"{told}; it was: {', '.join(sorted(f'{client} {role}' for client, role in has[victim]))}"


def lose(kafka: BrokerCluster, victim: int, pipelines: Sequence[Pipeline], home: Path | None) -> str:
    """Kills a broker, waits until all goes on without it, has it come back; what it took, in words. With a `home`, the doctor is
    asked there meanwhile, and afterwards."""
    begun_s = time.monotonic()
    kafka.kill(victim)
    marks = [one.topics.published + 4 * RECORDS for one in pipelines]
    until(lambda: all(one.topics.published >= mark for one, mark in zip(pipelines, marks, strict=True)), WAIT_S)
    written_s = time.monotonic() - begun_s
    until(lambda: all(settled(one) >= mark for one, mark in zip(pipelines, marks, strict=True)), WAIT_S)
    answered_s = time.monotonic() - begun_s
    if home is not None:
        problems = diagnosed(home, KAFKA_BOOTSTRAP_SERVERS=kafka.brokers)
        assert {problem.weight for problem in problems} == {Weight.WARNING}, problems  # Kafka counts the killed one for minutes
        (found,) = [one for one in problems if "under-replicated" in one.what]
        assert f"away: {victim};" in found.what
        assert f"start broker {victim} again" in found.remedy
    back_s = time.monotonic()
    kafka.start(victim)
    kafka.await_in_sync()
    in_sync_s = time.monotonic() - back_s
    assert home is None or diagnosed(home, KAFKA_BOOTSTRAP_SERVERS=kafka.brokers) == []
    return (
        f"broker {victim} of three killed: producers write again after {written_s:.1f} s, streams have answered that after "
        f"{answered_s:.1f} s; started again, all copies are in sync after {in_sync_s:.1f} s"
    )


def settled(one: Pipeline) -> int:
    topics = one.topics
    return topics.outputs() + len(topics.read(topics.spec.dead_letters.topic))
