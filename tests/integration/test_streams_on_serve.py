"""Streams as they run in production: controller, Serve replicas, a real broker; killed, scaled, changed and paused on the way."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from kafka.admin import NewTopic
from ray import serve
from ray.job_submission import JobStatus

from cluster.commands.watch.metrics import METRICS, MetricsView
from cluster.errors import Conflict, NotFound
from cluster.ports import AppStatus, FeedKind, FeedSpec
from cluster.watch.catalogue import STREAM_RECORDS
from consumers.batch.schedule.jobs import OwnJobClient
from consumers.stream.counters import WorkerStatus
from consumers.stream.explain.section import StreamExplain
from consumers.stream.phases import WorkerPhase
from consumers.stream.security import Protocol, Security
from consumers.stream.serving.feed import ServeStreams
from consumers.stream.spec import ConsumerScaling, Format, StreamInput, StreamOutput, StreamSpec, Topic
from deployments.control.client import CONTROLLER_ACTOR, NAMESPACE, connect
from deployments.scoring.scorer import RoutedScorer
from deployments.scoring.scorer_thread import ScorerThread
from headrace.controller_start import start_controller
from headrace.local.home import read_settings
from tests.conftest import RayCluster
from tests.support.batch_parts import spec_of, write_dataset
from tests.support.broker_admin import administered
from tests.support.models import INPUT, SIGNATURE, rows, slow_artifact
from tests.support.stream_topics import WAIT_S, Topics, read_values
from tests.support.waiting import until

MODEL = "streamed"
SMALL = {"cpus": 0.1}


@dataclass
class Running:
    """A stream under a controller."""

    topics: Topics
    name: str

    def ask(self, command: str, **payload: Any) -> dict[str, Any]:
        return asyncio.run(connect().call(command, payload))

    def apply(self, spec: StreamSpec, payloads: dict[str, Any] | None = None) -> None:
        document = {"kind": "stream", "name": self.name, "model": MODEL, "spec": spec.model_dump(mode="json")}
        model = {
            "name": MODEL,
            "serving": {"transport": "embedded", "scaling": "manual", "resources": SMALL},
            "payloads": payloads,
        }
        self.ask("apply", models=[model], feeds=[document])

    def view(self) -> dict[str, Any]:
        return self.ask("feed.show", kind="stream", name=self.name)

    def workers(self) -> list[WorkerStatus]:
        return [WorkerStatus.model_validate(worker) for worker in self.view()["workers"]]

    def counted(self) -> dict[str, float]:
        """Committed records as the cluster's metrics have them, by outcome."""
        seen = MetricsView.model_validate(self.ask(METRICS.name))
        return {labels[1]: value for name, labels, value in seen.values if name == STREAM_RECORDS.name and labels[0] == self.name}

    def await_status(self, status: str) -> None:
        until(lambda: self.view()["status"] == status, WAIT_S)

    def await_workers(self, wanted: Callable[[list[WorkerStatus]], bool]) -> list[WorkerStatus]:
        found: list[WorkerStatus] = []

        def look() -> bool:
            found[:] = self.workers()
            return wanted(found)

        until(look, WAIT_S)
        return found


def share(count: int) -> Callable[[list[WorkerStatus]], bool]:
    """Whether so many workers run, and all partitions are theirs, each once."""

    def look(workers: list[WorkerStatus]) -> bool:
        owned = [partition for worker in workers for partition in worker.partitions]
        return len(workers) == count and sorted(owned) == [0, 1, 2, 3] and all(w.phase is WorkerPhase.RUNNING for w in workers)

    return look


@pytest.fixture(scope="module")
def running(ray_cluster: RayCluster, broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    tag = uuid.uuid4().hex[:6]
    image = rows(1)[0]

    def value(i: int) -> bytes:
        row = image.copy()
        row[0] = i % 7 / 7
        return bytes(row.astype("<f4").tobytes())

    spec = StreamSpec(
        model=MODEL,
        brokers=broker,
        input=StreamInput(topic=f"in-{tag}", format=Format.RAW),
        output=StreamOutput(topic=f"out-{tag}", format=Format.RAW),
        dead_letters=Topic(topic=f"dead-{tag}", partitions=1),
        max_batch_rows=20,
        session_timeout_s=6,
        transaction_timeout_s=10,
        resources=SMALL,  # type: ignore[arg-type]  # as a document would say it
        scaling=ConsumerScaling(min=1, max=2, lag_per_replica=400, calm_s=1),
    )
    start_controller(read_settings({"HEADRACE_HOME": str(home)}))
    made = Running(Topics(broker, spec, value), f"s{tag}")
    try:
        _register(made, home)
        made.apply(spec)
        made.await_status("ready")
        yield made
    finally:
        ray.kill(ray.get_actor(CONTROLLER_ACTOR, NAMESPACE))
        made.topics.close()
        for app in list(serve.status().applications):
            if app in (f"stream--{made.name}", f"{MODEL}--v1"):
                serve.delete(app)


def _register(made: Running, home: Path) -> None:
    uri, digest, _ = slow_artifact(home / "artifacts", model=MODEL)
    signature = SIGNATURE.model_dump(mode="json")
    made.ask("version.register", model=MODEL, artifact_uri=uri, digest=digest, engine="onnx", signature=signature)


def test_ready_means_that_its_workers_poll(running: Running) -> None:
    (worker,) = running.workers()
    assert worker.phase is WorkerPhase.RUNNING
    running.topics.publish(300)
    running.topics.check()
    (worker,) = running.await_workers(lambda workers: workers[0].rows_in == 300 and sum(workers[0].lag.values()) == 0)
    assert worker.partitions == (0, 1, 2, 3)
    assert (worker.rows_out, worker.rows_dead) == (294, 6)
    until(lambda: running.counted() == {"answered": 294, "dead": 6}, WAIT_S)


def test_payloads_of_what_has_committed_are_kept_once(running: Running, broker: str) -> None:
    topic = f"payloads-{uuid.uuid4().hex[:6]}"
    with administered(broker) as admin:
        admin.create_topics([NewTopic(topic, 1, 1)])
    running.apply(running.topics.spec, {"sample": 1.0, "kafka": {"topic": topic, "brokers": broker}})
    kept: list[dict[str, Any]] = []

    def look() -> bool:
        running.topics.publish(20)
        kept[:] = read_values(broker, topic)
        return len(kept) >= 40

    until(look, WAIT_S)
    running.apply(running.topics.spec)
    running.topics.check()
    ids = [each["id"] for each in kept]
    assert len(set(ids)) == len(ids)
    assert all(one.startswith(f"{running.topics.spec.input.topic}/") for one in ids)
    assert {(each["way"], each["model"], each["version"], each["outcome"], each["weight"]) for each in kept} == {
        ("stream", MODEL, 1, "ok", 1.0)
    }
    assert all(each["inputs"][0]["shape"] == [1, 784] and len(each["outputs"][0]["data"]) == 10 for each in kept)


def test_a_replica_that_is_killed_is_replaced_and_nothing_is_lost_or_doubled(running: Running) -> None:
    (worker,) = running.workers()
    before = running.topics.outputs()
    running.topics.publish(1500)
    running.topics.wait_for(before + 100)
    os.kill(worker.pid, signal.SIGKILL)
    running.topics.check()
    running.await_workers(lambda workers: worker.pid not in {other.pid for other in workers} and len(workers) > 0)
    # What the killed one had not told is lost, at most; the rest is counted, and nothing twice.
    known = running.counted()["answered"]
    running.topics.publish(50)
    running.topics.check()
    until(lambda: running.counted()["answered"] > known, WAIT_S)
    assert running.counted()["answered"] <= running.topics.outputs()


@pytest.mark.proof
def test_a_worker_that_stands_still_is_told_with_the_age_of_its_last_words(running: Running) -> None:
    running.await_status("ready")
    (worker,) = running.workers()
    assert worker.age_s < 3
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        (frozen,) = running.await_workers(lambda workers: workers[0].age_s > 4)
        seen = running.view()
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    assert (frozen.replica, frozen.phase, seen["status"]) == (worker.replica, WorkerPhase.RUNNING, "unhealthy")
    assert re.fullmatch(r"worker 0 has not answered for \d+ s", seen["message"])
    running.await_status("ready")


@pytest.mark.proof
def test_a_paused_stream_drains_and_a_resumed_one_scales_with_its_lag(running: Running) -> None:
    running.ask("feed.pause", kind="stream", name=running.name)
    running.await_status("stopped")
    running.topics.publish(2000)
    running.ask("feed.resume", kind="stream", name=running.name)

    def busy(workers: list[WorkerStatus]) -> bool:
        # The lag must last until the second worker has started, however slowly this machine starts one.
        if sum(sum(worker.lag.values()) for worker in workers) < 2000:
            running.topics.publish(1000)
        return share(2)(workers)

    running.await_workers(busy)
    running.topics.check()
    running.await_workers(share(1))
    running.await_status("ready")


def test_a_document_may_change_while_the_stream_works(running: Running) -> None:
    before = running.topics.outputs()
    old = {worker.replica for worker in running.workers()}
    running.topics.publish(1000)
    running.topics.wait_for(before + 50)
    running.apply(running.topics.spec.model_copy(update={"linger_ms": 1.0}))
    shown: set[str] = set()

    def look() -> bool:
        seen = running.view()
        shown.update(worker["replica"] for worker in seen["workers"])
        return bool(seen["status"] == "ready")

    until(look, WAIT_S)
    assert shown
    assert not shown & old  # what ran of the document before is never told as of this one
    running.topics.check()
    assert running.view()["spec"]["linger_ms"] == 1.0


@pytest.mark.proof
def test_some_records_are_explained_by_a_group_of_its_own(running: Running, broker: str) -> None:
    topic = f"why-{uuid.uuid4().hex[:6]}"
    section = StreamExplain.model_validate({"topic": topic, "partitions": 1, "sample": 0.1, "groups": {"whole": [INPUT]}})
    running.apply(running.topics.spec.model_copy(update={"explain": section}))
    found: list[dict[str, Any]] = []

    def look() -> bool:
        running.topics.publish(20)
        with administered(broker) as admin:
            found[:] = read_values(broker, topic) if topic in admin.list_topics() else []
        return len(found) >= 4

    until(look, WAIT_S)
    running.topics.check()  # scored all the same, each once

    def told(workers: list[WorkerStatus]) -> bool:
        made = [each.explain for each in workers if each.explain]
        # Its group shares the partitions out for itself.
        owned = {str(label) for each in made for label in each.lag}  # keys of JSON are texts
        return bool(owned) and owned <= set("0123") and sum(each.rows_out for each in made) >= len(found)

    running.await_workers(told)
    assert {one["method"] for one in found} == {"exact"}
    assert all(one["groups"]["whole"][0] == pytest.approx(one["answer"] - one["baseline"]) for one in found)


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_stream_batch_and_model_are_removed_and_the_stream_goes_on_when_applied_again(running: Running, tmp_path: Path) -> None:
    write_dataset(tmp_path / "in", files=1)
    spec = spec_of(tmp_path / "in", tmp_path / "out", model=MODEL, workers={"max": 1})
    batch = {"kind": "batch", "name": f"b{running.name}"}
    document = {**batch, "model": MODEL, "spec": spec.model_dump(mode="json"), "schedule": {"cron": "* * * * *"}}
    running.ask("apply", feeds=[document])
    stream = {"kind": "stream", "name": running.name}
    before = running.topics.outputs()
    running.topics.publish(1000)
    running.topics.wait_for(before + 50)
    running.ask("feed.delete", **stream)
    with pytest.raises(Conflict, match=f"batch {batch['name']} scores with it"):
        running.ask("model.delete", model=MODEL)
    until(lambda: is_gone(running, "feed.show", **stream), WAIT_S)
    assert f"stream--{running.name}" not in serve.status().applications
    running.apply(running.topics.spec)
    running.topics.check()  # from where it stopped: nothing is lost or doubled
    until(lambda: fires(running, batch)[-1:] in (["submitted"], ["running"]), WAIT_S)
    running.ask("feed.delete", **batch)
    until(lambda: is_gone(running, "feed.show", **batch), WAIT_S)
    jobs = OwnJobClient(ray.get_runtime_context().gcs_address).list_jobs()
    mine = {job.submission_id: job.status for job in jobs if batch["name"] in (job.submission_id or "")}
    assert mine
    assert not {JobStatus.PENDING, JobStatus.RUNNING} & set(mine.values())
    artifact = Path(running.ask("version.resolve", model=MODEL)["artifact_uri"].removeprefix("file://"))
    assert artifact.is_dir()
    running.ask("feed.delete", **stream)
    running.ask("model.delete", model=MODEL, artifacts=True)
    until(lambda: is_gone(running, "model.show", model=MODEL), WAIT_S)
    assert not {f"{MODEL}--v1", f"stream--{running.name}"} & set(serve.status().applications)
    assert not artifact.exists()
    with ScorerThread(lambda: RoutedScorer(connect())) as scorer:
        refusals = []
        for name in (MODEL, "never-was"):
            with pytest.raises(NotFound) as caught:
                scorer.score(name, {INPUT: rows(1)})
            refusals.append(str(caught.value).replace(name, "NAME"))
    assert refusals[0] == refusals[1]


def is_gone(running: Running, command: str, **name: str) -> bool:
    try:
        running.ask(command, **name)
    except NotFound:
        return True
    return False


def fires(running: Running, batch: dict[str, str]) -> list[str]:
    return [fire["state"] for fire in running.ask("feed.show", **batch)["schedule"]["fires"]]


@pytest.mark.proof
def test_a_stream_whose_broker_is_away_says_so_and_not_its_password(ray_cluster: RayCluster, tmp_path: Path) -> None:
    streams = ServeStreams("127.0.0.1:1")
    secret = tmp_path / "secret"
    secret.write_text("hush-hush")
    spec = StreamSpec(
        model="m",
        input=StreamInput(topic="a"),
        output=StreamOutput(topic="b"),
        dead_letters=Topic(topic="c"),
        security=Security(protocol=Protocol.SASL_SSL, mechanism="PLAIN", username="u", password_file=str(secret)),
        resources=SMALL,  # type: ignore[arg-type]  # as a document would say it
    )
    feed = FeedSpec(FeedKind.STREAM, f"away{uuid.uuid4().hex[:4]}", "m", spec.model_dump_json(), "d1")
    streams.start(feed)
    try:
        until(lambda: "127.0.0.1:1" in streams.state()[feed.name].app.message, WAIT_S)
        assert streams.state()[feed.name].app.status is AppStatus.STARTING
        assert "hush" not in repr(streams.state())
        logs = [path.read_text(errors="replace") for path in ray_cluster.logs.rglob("*") if path.is_file()]
        assert any(feed.name in log for log in logs)
        assert not any("hush-hush" in log for log in logs)
    finally:
        streams.stop(feed.name)
        until(lambda: feed.name not in streams.state(), WAIT_S)
