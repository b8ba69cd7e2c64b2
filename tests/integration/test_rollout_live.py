"""Rollouts on the real cluster, with real versions, under load by HTTP, by a stream and by scorers: nobody notices a bad one."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from kafka import KafkaConsumer
from kafka.admin import NewTopic

from cluster.commands.labels import Label, TellLabels
from cluster.commands.watch.quality import VersionQualityView
from cluster.errors import Unreachable
from cluster.rollout.labels import LabelKey
from cluster.rollout.plan import NamedPlan
from cluster.versions import BuiltQuality
from cluster.watch.catalogue import LabelFault, ScoringWay
from cluster.watch.payloads import PayloadFiles
from deployments.artifacts.fetch import localize
from deployments.engines.load import load_engine
from deployments.observe.payloads.event import PayloadEvent, PayloadOutcome
from deployments.observe.payloads.parquet_files import ParquetPayloads
from headrace.audit.export import export, prune
from headrace.audit.places import place_of
from headrace.audit.verify import verify
from headrace.local.home import Settings, read_settings
from tests.conftest import RayCluster
from tests.support.broker_admin import administered
from tests.support.leaky_fleet import LEAKS
from tests.support.live import Artifact, Load, Service, controller_process, loaded, running
from tests.support.live_stream import Events, streaming
from tests.support.models import (
    INPUT,
    OUTPUT,
    crashing_artifact,
    failing_artifact,
    mistaken_artifact,
    mlp_artifact,
    rows,
    slow_artifact,
)
from tests.support.stream_topics import KEYS, WAIT_S
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(600)
MODEL = "live"
SERVING: dict[str, Any] = {"resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
LIMITED = SERVING | {"memory_bytes": 700_000_000}
PLAN: dict[str, Any] = {
    "steps": [{"weight": 30, "bake_s": 0.5}, {"weight": 100, "bake_s": 0.5}],
    "checks": {"error_rate": {"margin": 0.02}},
    "keep_warm_s": 0,
}
SHADOWED = PLAN | {
    "steps": [{"shadow": 100, "bake_s": 0.5}, {"weight": 100, "bake_s": 0.5}],
    "checks": {"disagreement": {"margin": 0.1}},
}
LABELLED = PLAN | {"checks": {"labels": {"margin": 0.1, "output": OUTPUT}}}
# A step that it can't pass before it is killed.
LONG = PLAN | {"steps": [{"weight": 30, "bake_s": 120}, {"weight": 100, "bake_s": 0.5}]}
TIMED = PLAN | {"checks": {"slow": {"bound_ms": 250, "margin": 0.3}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def stable(folder: Path) -> Artifact:
    return mlp_artifact(folder, MODEL)


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return read_settings({"HEADRACE_HOME": str(folder / "home")})


@pytest.fixture(scope="module")
def service(ray_cluster: RayCluster, settings: Settings, stable: Artifact) -> Iterator[Service]:
    """Version 1 is stable."""
    with running(ray_cluster, settings, MODEL, fleet="tests.support.leaky_fleet:LeakyFleet") as service:
        service.register(stable)
        service.apply(SERVING, PLAN)
        assert service.ended(1).state == "promoted"
        yield service


@pytest.fixture(scope="module")
def events(service: Service, broker: str, stable: Artifact) -> Iterator[Events]:
    with streaming(service, broker, stable) as events:
        yield events


@pytest.fixture(scope="module")
def calls(service: Service, events: Events, stable: Artifact) -> Iterator[Load]:
    with loaded(service, stable) as load:
        yield load


@pytest.fixture
def load(calls: Load, events: Events) -> Iterator[Load]:
    """After each test, no caller has met a failure, and every record of the stream has its one answer."""
    yield calls
    calls.await_calls(20)
    assert calls.failures == []
    events.settle()


def test_a_good_version_is_promoted(service: Service, load: Load, folder: Path) -> None:
    service.apply(SERVING, PLAN)
    load.await_calls(20)
    ended = service.ended(service.register(mlp_artifact(folder, MODEL, nudge=0.1)))
    assert (ended.state, ended.weight) == ("promoted", 100)


def broken_artifact(folder: Path, model: str) -> Artifact:
    """Of the right size, which is all that registering looks at."""
    artifact = mlp_artifact(folder, model, nudge=0.2)
    file = Path(artifact[0]) / "model.onnx"
    file.write_bytes(b"broken".ljust(file.stat().st_size, b"."))
    return artifact


def wrong_artifact(folder: Path, model: str) -> Artifact:
    return mlp_artifact(folder, model, seed=1)


def leaking_artifact(folder: Path, model: str) -> Artifact:
    return mlp_artifact(folder / LEAKS, model, nudge=0.7)


def slow(folder: Path, model: str) -> Artifact:
    return slow_artifact(folder, model, rounds=4000)


@pytest.mark.parametrize(
    ("make", "plan", "why"),
    [
        (failing_artifact, PLAN, "error rate: candidate"),
        (slow, TIMED, "slow: candidate"),
        (wrong_artifact, SHADOWED, "disagreement: candidate"),
        (broken_artifact, PLAN, "model.onnx is damaged"),
        # Seen in the answers or in the replicas' state, whichever is first.
        pytest.param(crashing_artifact, PLAN, "candidate", marks=pytest.mark.proof),
        pytest.param(leaking_artifact, LONG, "candidate", marks=pytest.mark.proof),
    ],
    ids=["fails some inputs", "is slow", "answers wrongly", "fails to load", "crashes its process", "leaks until it is killed"],
)
def test_a_bad_version_is_rolled_back_and_users_never_notice(
    service: Service, load: Load, folder: Path, make: Callable[[Path, str], Artifact], plan: dict[str, Any], why: str
) -> None:
    service.apply(LIMITED if make is leaking_artifact else SERVING, plan)
    stable = service.control.model(MODEL).stable
    candidate = service.register(make(folder, MODEL))
    ended = service.ended(candidate)
    assert ended.state == "rolled_back"
    assert why in ended.reason
    assert service.control.model(MODEL).stable == stable
    last = service.control.rollout_history(MODEL).audit[-1]
    assert (last.event, last.detail["candidate"]) == ("rolled_back", candidate)


@pytest.fixture(scope="module")
def log(folder: Path, stable: Artifact) -> Path:
    """Rows with stable's answers, as a payload log has them."""
    image = rows(200)
    outputs = load_engine(localize(*stable[:2])).score({INPUT: image})
    versions = np.ones(len(image), np.int32)
    ok = PayloadOutcome.OK
    event = PayloadEvent("a", time.time(), ScoringWay.ONLINE, MODEL, 1, ok, 1.0, {INPUT: image}, outputs, versions)
    assert ParquetPayloads(PayloadFiles(path=str(folder / "log"))).write([event]).kept == 1
    return folder / "log"


@pytest.mark.proof
def test_recorded_requests_are_put_to_a_candidate_before_it_has_traffic(
    service: Service, load: Load, log: Path, folder: Path
) -> None:
    asked = {"preflight": {"payloads": str(log)}}
    service.apply(SERVING, PLAN | asked)
    ended = service.ended(service.register(mlp_artifact(folder, MODEL, nudge=0.15)))
    assert (ended.state, ended.weight) == ("promoted", 100)
    assert ended.preflight.startswith("200 recorded rows: 0 % answered differently, 0 % failed")
    ended = service.ended(service.register(mlp_artifact(folder, MODEL, seed=7)))
    assert (ended.state, ended.step) == ("rolled_back", 0)
    assert "its preflight failed: 200 recorded rows" in ended.reason
    away = folder / "away"
    service.apply(SERVING, PLAN | {"preflight": {"payloads": str(away)}})
    candidate = service.register(mlp_artifact(folder, MODEL, nudge=0.16))
    waiting = service.seen(lambda rollout: rollout.candidate == candidate and "its preflight could not be made" in rollout.reason)
    assert (waiting.state, waiting.weight) == ("warming", 0.0)
    assert str(away) in waiting.reason
    log.rename(away)
    ended = service.ended(candidate)
    assert (ended.state, ended.weight) == ("promoted", 100)


def test_the_controller_is_killed_in_the_middle(service: Service, load: Load, folder: Path) -> None:
    service.apply(SERVING, PLAN | {"steps": [{"weight": 30, "bake_s": 4}, {"weight": 100, "bake_s": 0.5}]})
    candidate = service.register(mlp_artifact(folder, MODEL, nudge=0.3))
    service.seen(lambda rollout: rollout.candidate == candidate and rollout.state == "canary")
    killed = controller_process()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(60)
    load.await_calls(20)  # with the last table
    ended = service.ended(candidate)
    assert ended.state == "promoted"
    assert controller_process().pid != killed.pid


@pytest.mark.proof
def test_a_candidate_whose_only_replica_is_killed_is_promoted_in_the_end(
    service: Service, load: Load, folder: Path, ray_cluster: RayCluster
) -> None:
    """Under load, and with each caller answered: the calls that met no replica of it are no evidence against it."""
    service.apply(SERVING, PLAN | {"steps": [{"weight": 30, "bake_s": 30}, {"weight": 100, "bake_s": 0.5}]})
    candidate = service.register(mlp_artifact(folder, MODEL, nudge=0.9))
    service.seen(lambda rollout: rollout.candidate == candidate and rollout.state == "canary")
    app = f"{MODEL}--v{candidate}"
    until(lambda: len(ray_cluster.replica_pids(app)) == 1, 60)
    (killed,) = ray_cluster.replica_pids(app)
    load.await_calls(20)
    os.kill(killed, signal.SIGKILL)
    ended = service.ended(candidate)
    assert ended.state == "promoted", ended.reason
    assert service.control.model(MODEL).stable == candidate
    assert killed not in ray_cluster.replica_pids(app)


def test_while_the_store_is_locked_all_is_scored_and_then_the_rollout_goes_on(
    service: Service, load: Load, events: Events, settings: Settings, folder: Path
) -> None:
    service.apply(SERVING, PLAN | {"steps": [{"weight": 30, "bake_s": 4}, {"weight": 100, "bake_s": 0.5}]})
    candidate = service.register(mlp_artifact(folder, MODEL, nudge=0.4))
    service.seen(lambda rollout: rollout.candidate == candidate and rollout.state == "canary")
    other = sqlite3.connect(settings.store_url.removeprefix("sqlite:///"), timeout=60, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unreachable):
            service.control.promote(MODEL)
        load.await_calls(20)
        events.settle()
        # The table stands still: each key meets its version, whether it comes by HTTP or in a record.
        by_gateway = service.version_of(b"%d" % key for key in range(KEYS))
        assert len(set(by_gateway.values())) == 2
        until(lambda: events.versions() == by_gateway, WAIT_S)
    finally:
        other.close()  # which gives the lock back
    assert service.ended(candidate).state == "promoted"


@pytest.mark.parametrize(
    ("make", "state"), [(mistaken_artifact, "rolled_back"), (mlp_artifact, "promoted")], ids=["less right", "as right"]
)
def test_late_labels_decide(
    service: Service, load: Load, events: Events, folder: Path, make: Callable[..., Artifact], state: str
) -> None:
    """The records' labels come back by the key that came with each answer; no check but theirs is in force."""
    service.apply(SERVING, LABELLED | {"checks": {**LABELLED["checks"], "error_rate": None}})
    more = {"nudge": 0.5} if make is mlp_artifact else {}
    candidate = service.register(make(folder, MODEL, **more))
    ended = events.label_until_ended(candidate)
    assert ended.state == state, ended.reason
    if state == "rolled_back":
        assert "label loss: candidate" in ended.reason


def test_the_audit_of_all_this_is_proven(service: Service, folder: Path) -> None:
    first = export(service.control, folder / "audit")
    assert first.records == first.added >= 3
    service.apply(SERVING, PLAN | {"deadline_s": 1234})
    second = export(service.control, folder / "audit")
    assert (second.added, second.key) == (second.records - first.records, first.key)
    assert second.added
    found = verify(folder / "audit", second.key)
    assert (found.records, found.checkpoints, found.unproven) == (second.records, 2, 0)


@pytest.mark.proof
def test_who_used_it_stands_in_the_audit_and_goes_when_it_is_old_and_exported(
    service: Service, load: Load, broker: str, folder: Path
) -> None:
    load.await_calls(20)

    def used() -> dict[tuple[str, str], int]:
        """Rows by caller and door, as the audit tells them."""
        found: dict[tuple[str, str], int] = {}
        checkpoint = service.control.audit_checkpoint()
        at = checkpoint.first
        while at < checkpoint.size:
            documents = service.control.audit_records(at).documents
            at += len(documents)
            for event in map(json.loads, documents):
                if event["event"] == "used":
                    caller = event["actor"], event["door"]
                    found[caller] = found.get(caller, 0) + event["detail"]["rows"]
        return found

    until(lambda: {door for (_, door), rows in used().items() if rows} >= {"http", "stream"}, 90)
    newest, topic = service.control.audit_checkpoint(), f"checkpoints-{uuid.uuid4().hex[:8]}"
    with administered(broker) as admin:
        admin.create_topics([NewTopic(topic, 1, 1)])
    place_of(f"kafka://{broker}/{topic}")(newest.note, newest.size)
    consumer = KafkaConsumer(topic, bootstrap_servers=broker, auto_offset_reset="earliest", consumer_timeout_ms=20_000)
    kept = next(consumer)
    consumer.close()
    assert kept.key == str(newest.size).encode()
    (folder / "kept-elsewhere").write_bytes(kept.value)
    gone = prune(service.control, folder / "pruned", time.time() - 1)
    assert gone > 3
    assert verify(folder / "pruned", newest.key, (folder / "kept-elsewhere",)).first == 0
    assert service.control.audit_checkpoint().first == gone
    assert load.failures == []


@pytest.mark.proof
def test_between_rollouts_labels_say_that_it_has_become_wrong_and_nothing_is_rolled_back(
    service: Service, load: Load, events: Events, folder: Path
) -> None:
    service.apply(SERVING, PLAN, labels={"output": OUTPUT})
    built = service.register(mlp_artifact(folder, MODEL, nudge=0.35), BuiltQuality(2000, accuracy=0.99))
    assert service.ended(built).state == "promoted"
    until(lambda: len(service.label_keys(4)) == 4, 60)

    def tell(keys: list[str], *, right: bool) -> int:
        return service.control.tell_labels(TellLabels(model=MODEL, labels=labels(keys, right=right))).counted

    def labels(keys: list[str], *, right: bool) -> tuple[Label, ...]:
        parsed = [LabelKey.parse(key) for key in keys]
        assert {(key.rollout, key.version) for key in parsed} == {(0, built)}
        assert all(abs(time.time() - (key.answered_s or 0)) < 120 for key in parsed)
        return tuple(Label(key=key, label=one.answer + (not right)) for key, one in zip(keys, parsed, strict=True))

    def seen() -> VersionQualityView:
        return next(one for one in service.control.quality(MODEL).versions if one.version == built)

    assert tell(service.label_keys(200), right=True) == 200
    assert (seen().loss, seen().alarm) == (0.0, None)
    on_stream = events.label_keys(100)
    assert len(on_stream) == 100
    events.tell_on_topic([*labels(on_stream, right=True), *labels(on_stream[:5], right=True)])  # five twice
    until(lambda: service.control.quality(MODEL).faults.get(LabelFault.TWICE) == 5, WAIT_S)
    assert (seen().labelled, seen().loss) == (300, 0.0)
    assert tell(service.label_keys(100), right=False) == 100
    alarm = seen().alarm
    assert alarm is not None
    assert alarm.built == pytest.approx(0.01)
    until(lambda: 0 < (seen().share or 0) < 1, 30)  # the load's answers had keys too, and no label
    metrics = httpx.get(f"{service.url}/metrics", trust_env=False, timeout=60).text
    assert f'headrace_quality_alarm{{model="{MODEL}",version="{built}"}} 1.0' in metrics
    load.await_calls(10)
    assert service.control.model(MODEL).stable == built
    service.control.clear_quality_alarm(MODEL)
    assert seen().alarm is None


def test_twenty_rollouts_and_rollbacks_in_a_row(service: Service, load: Load, folder: Path) -> None:
    """Between two warm versions: there at once, and there by a canary that a person takes back."""
    service.apply(
        SERVING, PLAN | {"start": "manual", "keep_warm_s": 600, "steps": [{"weight": 30, "bake_s": 600}, {"weight": 100}]}
    )
    versions = [service.control.model(MODEL).stable, service.register(mlp_artifact(folder, MODEL, nudge=0.6))]
    before = len(service.control.rollout_history(MODEL).rollouts)
    for _ in range(10):
        versions.reverse()
        service.control.start_rollout(MODEL, versions[0], plan=NamedPlan.INSTANT)
        assert service.ended_last().state == "promoted"
        service.control.start_rollout(MODEL, versions[1])
        service.seen(lambda rollout: rollout.state == "canary")
        service.control.abort(MODEL)
        assert service.control.model(MODEL).stable == versions[0]
        load.await_calls(5)
    assert len(service.control.rollout_history(MODEL).rollouts) == before + 20


def test_a_version_that_was_let_go_is_tried_again(service: Service, load: Load, folder: Path) -> None:
    service.apply(SERVING, PLAN | {"start": "manual", "steps": [{"weight": 50, "bake_s": 600}, {"weight": 100}]})
    candidate = service.register(mlp_artifact(folder, MODEL, nudge=0.8))
    keys = [f"key {number}".encode() for number in range(20)]
    for _ in range(2):
        service.control.start_rollout(MODEL, candidate)
        service.seen(lambda rollout: rollout.state == "canary")
        until(lambda: candidate in service.version_of(keys).values(), 60)
        service.control.abort(MODEL)
        until(lambda: candidate not in service.version_of(keys).values(), 60)
