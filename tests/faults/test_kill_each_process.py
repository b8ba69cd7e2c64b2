"""`kill -9` of each process in turn, under calls and records: what `headrace up --supervise` brings back, how soon, at what cost.

Our own processes, Ray's workers and those that Ray keeps beside raylet and GCS: at most the calls that were under way on it fail.
Where the raylet, an agent of its or the GCS is killed, Ray starts afresh. Prints the table of docs/operating.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster.commands.documents import Apply, FeedDocument
from cluster.commands.feeds import FeedName
from cluster.errors import HeadraceError
from consumers.stream.spec import Format, StreamInput, StreamOutput, StreamSpec, Topic
from headrace.client import ControlClient
from headrace.local.broker import class_path
from headrace.local.home import Home, read_settings
from headrace.local.home_key import home_key
from headrace.local.ports import free_port
from headrace.local.processes import of_run
from headrace.local.repairs.look import look
from headrace.local.run_state import RunState, load_run
from tests.support.broker import jar_cache
from tests.support.live import Service
from tests.support.live_stream import row_of
from tests.support.models import INPUT, mlp_artifact, rows
from tests.support.stream_topics import Topics
from tests.support.waiting import until

MODEL = "digits"
SERVING: dict[str, Any] = {
    "transport": "remote",
    "resources": {"cpus": 0.1},
    "scaling": {"mode": "manual", "replicas": 2},
}
PLAN: dict[str, Any] = {"steps": [{"weight": 100}]}
CALLERS = 4  # each has one call under way
PAUSE_S = 0.02
RETRY_S = 0.1  # after a call that failed, as a client would
DOOR_AWAY_S = 1.0
CALL_S = 90.0  # longer than the door holds a call while no gateway is up
WELL_WITHIN_S = 300.0
RECORDS = 20
pytestmark = [pytest.mark.proof, pytest.mark.timeout(1800)]  # ten minutes


@dataclass(frozen=True)
class Victim:
    """What is killed. `title` is a part of its command line; `spares`: at most the calls under way on it fail, or at the door
    those of a second."""

    name: str
    title: str
    spares: bool = True
    at_the_door: bool = False


KAFKA = Victim("local Kafka", "kafka.Kafka")
VICTIMS = (
    Victim("gateway", "ray::ServeReplica:gateway:"),
    Victim("door: keeper", "deployments.gateway.door.keeper", at_the_door=True),
    Victim("door: HAProxy", "haproxy ", at_the_door=True),
    Victim("replica", f"ray::ServeReplica:{MODEL}--v1:"),
    Victim("stream worker", "ray::ServeReplica:stream--"),
    Victim("controller", "ray::ControllerActor"),
    Victim("Serve's controller", "ray::ServeController"),
    Victim("dashboard", "ray/dashboard/dashboard.py"),
    Victim("client server", "ray.util.client.server"),
    KAFKA,
    Victim("raylet's dashboard agent", "ray::DashboardAgent", spares=False),
    Victim("raylet's environment agent", "ray::RuntimeEnvAgent", spares=False),
    Victim("GCS", "gcs/gcs_server", spares=False),
    Victim("raylet", "raylet/raylet ", spares=False),
)


@dataclass
class Supervised:
    """A home under `headrace up --supervise`."""

    home: Home
    process: subprocess.Popen[bytes]
    log: Path

    def state(self) -> RunState:
        state = load_run(self.home)
        assert state is not None
        return state

    def is_whole(self) -> bool:
        """Everything does its work, as the command line sees it."""
        state = load_run(self.home)
        settings = read_settings({"HEADRACE_HOME": str(self.home.root)})
        return state is not None and state.phase == "running" and look(state, settings) == ()

    def processes(self, victim: Victim) -> set[int]:
        found = {*of_run(self.state(), self.home.root)}
        found |= {child for process in list(found) for child in children(process)}
        return {process.pid for process in found if victim.title in title(process)}


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.NoSuchProcess:
        return []


@dataclass
class Calls:
    """Callers that go on, whatever happens: when each call that failed began, and the newest one that was answered."""

    url: str
    answered: int = 0
    failed: list[tuple[float, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    def call(self) -> None:
        tensor = {"name": INPUT, "shape": [1, 784], "datatype": "FP32", "data": rows(1, seed=7).ravel().tolist()}
        with httpx.Client(timeout=CALL_S, trust_env=False) as client:
            while not self._stop.wait(PAUSE_S):
                begun_s = time.monotonic()
                try:
                    answer = client.post(f"{self.url}/v2/models/{MODEL}/infer", json={"inputs": [tensor]})
                    failure = None if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"
                except httpx.HTTPError as error:
                    failure = repr(error)
                with self._lock:
                    self.slowest_s = max(self.slowest_s, time.monotonic() - begun_s)
                    if failure is None:
                        self.answered += 1
                    else:
                        self.failed.append((begun_s, failure))
                if failure is not None:
                    self._stop.wait(RETRY_S)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.call, name="caller") for _ in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    home = Home(tmp_path / "home")
    home.make()
    class_path(jar_cache())
    (home.broker / "jars").symlink_to(jar_cache())
    options = ("--http-port", "--grpc-port", "--dashboard-port", "--broker-port")
    ports = [word for option in options for word in (option, str(free_port()))]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HEADRACE_", "KAFKA_"))}
    headrace = str(Path(sys.executable).with_name("headrace"))
    log = tmp_path / "supervisor.log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            [headrace, "up", "--supervise", "--broker", "--num-cpus", "4", *ports],
            stdout=told,
            stderr=told,
            env={**environment, "HEADRACE_HOME": str(home.root)},
        )
    yield Supervised(home, process, log)
    process.kill()
    process.wait()
    state = load_run(home)
    for left in of_run(state, home.root) if state is not None else []:
        left.kill()


@contextmanager
def streaming(service: Service, brokers: str) -> Iterator[Topics]:
    """A stream of the model, under records, whose topics outlive every kill."""
    tag = uuid.uuid4().hex[:6]
    spec = StreamSpec(
        model=MODEL,
        brokers=brokers,
        input=StreamInput(topic=f"in-{tag}", format=Format.RAW, partitions=2),
        output=StreamOutput(topic=f"out-{tag}", format=Format.RAW, partitions=2),
        dead_letters=Topic(topic=f"dead-{tag}", partitions=1),
        session_timeout_s=6,
        resources={"cpus": 0.1},  # type: ignore[arg-type]  # as a document would say it
    )
    name = FeedName(kind="stream", name=f"kills-{tag}")
    document = FeedDocument(kind="stream", name=name.name, model=MODEL, spec=spec.model_dump(mode="json"))
    service.control.apply(Apply(feeds=(document,)))
    until(lambda: service.control.feed(name).status == "ready", WELL_WITHIN_S, trouble=(HeadraceError,))
    topics = Topics(brokers, spec, lambda number: bytes(row_of(number).astype("<f4").tobytes()))
    try:
        yield topics
    finally:
        topics.close()


@dataclass(frozen=True)
class Row:
    """One kill, as the table tells it: how many calls failed, until when after it they began, how long the
    slowest call took, and when all was there again."""

    victim: Victim
    failed: int
    failing_s: float
    slowest_s: float
    whole_s: float

    def line(self) -> str:
        return f"| {self.victim.name} | {self.failed} | {self.failing_s:.1f} s | {self.slowest_s:.1f} s | {self.whole_s:.1f} s |"

    def costs_too_much(self) -> bool:
        """Whether more was lost than may be."""
        if self.victim.at_the_door:
            return self.failing_s > DOOR_AWAY_S
        return self.victim.spares and self.failed > CALLERS


def killed(victim: Victim, at: Supervised, calls: Calls, topics: Topics) -> Row:
    """Kills one process of the kind, and waits until all is as it was."""
    before = at.processes(victim)
    assert before, f"no {victim.name} runs"
    failed, answered, outputs = len(calls.failed), calls.answered, topics.outputs()
    begun_s, calls.slowest_s = time.monotonic(), 0.0
    os.kill(min(before), signal.SIGKILL)
    if victim is not KAFKA:
        topics.publish(RECORDS)
    until(lambda: calls.answered >= answered + 2 * CALLERS, WELL_WITHIN_S)
    until(lambda: bool(at.processes(victim) - before) and at.is_whole(), WELL_WITHIN_S, trouble=(psutil.Error, AssertionError))
    if victim is KAFKA:
        topics.publish(RECORDS)
    until(lambda: topics.outputs() > outputs, WELL_WITHIN_S)
    whole_s, answered = time.monotonic() - begun_s, calls.answered
    until(lambda: calls.answered >= answered + 2 * CALLERS, WELL_WITHIN_S)
    failures = [at_s - begun_s for at_s, _ in calls.failed[failed:]]
    return Row(victim, len(failures), max(failures, default=0.0), calls.slowest_s, whole_s)


def missed_in_audit(control: ControlClient) -> set[str]:
    """The processes of which the audit says that counts are missing."""
    end = control.audit_checkpoint()
    missed, at = set[str](), end.first
    while at < end.size:
        documents = control.audit_records(at).documents
        at += len(documents)
        told = map(json.loads, documents)
        missed |= {event["detail"]["process"] for event in told if event["event"] == "audit gap"}
    return missed


def test_all_is_brought_back_by_itself(supervised: Supervised, tmp_path: Path) -> None:
    until(supervised.is_whole, WELL_WITHIN_S)
    addresses = supervised.state().addresses
    assert addresses.http is not None
    assert addresses.broker is not None
    with ControlClient(addresses.http, timeout_s=60.0, token=home_key(supervised.home)) as control:
        service = Service(MODEL, addresses.http, control)
        service.apply(SERVING, PLAN)
        service.register(mlp_artifact(tmp_path, MODEL))
        assert service.ended(1).state == "promoted"
        calls = Calls(addresses.http)
        with streaming(service, addresses.broker) as topics, calls.going_on():
            table = []
            for victim in VICTIMS:
                table.append(killed(victim, supervised, calls, topics))
                sys.stdout.write(f"{table[-1].line()}\n")
            topics.publish(RECORDS)
            topics.check()
        missed = missed_in_audit(control)
    assert [row for row in table if row.costs_too_much()] == [], calls.failed[:20]
    # Both count uses, and were killed with some that they had not told; that was more than a minute ago.
    assert any(where.startswith("gateway ") for where in missed), missed
    assert any(where.startswith("worker 0 of stream ") for where in missed), missed

    family = of_run(supervised.state(), supervised.home.root)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.process.wait(180) == 0, supervised.log.read_text()
    assert load_run(supervised.home) is None
    assert [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
