"""Two clusters that are kept up over one store: the second is refused, unless it is told to take over; then the first is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from cluster.error_wire import to_wire
from cluster.errors import Fenced, HeadraceError, Unreachable
from cluster.store.holder import DEAD_AFTER_S
from headrace import controller_actor
from headrace.controller_actor import ControllerActor
from headrace.controller_start import START_TIMEOUT_S, _trouble_of
from headrace.local.declared.as_it_was import as_it_was
from headrace.local.home import read_settings
from headrace.local.options import UpOptions, not_taken_up
from headrace.local.repairs import look as looking
from headrace.local.repairs.parts import Away, RunPart
from headrace.local.repairs.supervise import Supervisor
from headrace.local.run_state import Addresses, Phase, RunState

FAKES = (
    "deployments.serving.fake_fleet:FakeFleet",
    "tests.support.brain:FakeStreams",
    "consumers.batch.schedule.fake_jobs:FakeJobs",
)


@dataclass
class Clusters:
    """Controllers of clusters with one store, by the clusters' names; their turns are the test's, and so is the time."""

    store_url: str
    now_s: float = 100.0

    def begin(self, cluster: str) -> ControllerActor:
        """A new process of it."""
        return ControllerActor(self.store_url, *FAKES, cluster=cluster, home=f"/home/{cluster}")

    def renew(self, actor: ControllerActor, after_s: float = 5.0) -> None:
        """It tells that it lives, after some time."""
        self.now_s += after_s
        assert actor._controller is not None
        actor._renew_once(actor._controller)


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clusters:
    made = Clusters(f"sqlite:///{tmp_path}/store.db")
    monkeypatch.setattr(controller_actor, "log_to_stderr", lambda: None)
    monkeypatch.setattr(ControllerActor, "_run", lambda _: None)
    monkeypatch.setattr(ControllerActor, "_renew", lambda _: None)
    monkeypatch.setattr("headrace.controller_actor.time.monotonic", lambda: made.now_s)
    monkeypatch.setattr("headrace.controller_actor.time.time", lambda: 1_790_000_000.0 + made.now_s)
    monkeypatch.setattr("headrace.controller_actor.ray.util.get_node_ip_address", lambda: "10.0.0.1")
    return made


def turn(actor: ControllerActor) -> Any:
    """What `status` answers after another of its turns."""
    actor._turn()
    return asyncio.run(actor.call("status", {}))


def test_the_second_is_refused_and_the_first_decides_on(clusters: Clusters) -> None:
    first = clusters.begin("a")
    assert isinstance(turn(first), dict)
    second = clusters.begin("b")
    waits = turn(second)
    assert isinstance(waits, Unreachable)
    assert "/home/a on " in waits.what
    for _ in range(20):
        clusters.renew(first)
        refused = turn(second)
        assert isinstance(refused, Fenced)
        assert "(10.0.0.1)" in refused.what
        assert "--take-over" in refused.remedy
        assert isinstance(turn(first), dict)
    assert not first._fenced
    assert not second._fenced  # it stays to say why, until who started it ends it


def test_one_that_crashed_takes_its_store_up_at_once(clusters: Clusters) -> None:
    turn(clusters.begin("a"))
    assert isinstance(turn(clusters.begin("a")), dict)


def test_another_cluster_takes_the_store_up_by_itself_once_the_first_is_dead(clusters: Clusters) -> None:
    turn(clusters.begin("a"))
    second = clusters.begin("b")
    for _ in range(round(DEAD_AFTER_S)):
        assert isinstance(turn(second), Unreachable)
        clusters.now_s += 1.0
    assert isinstance(turn(second), dict)


def test_the_one_that_is_told_to_takes_over_and_the_first_does_not_take_it_back(clusters: Clusters) -> None:
    first, second = clusters.begin("a"), clusters.begin("b")
    turn(first)
    asyncio.run(second.take_over())
    assert isinstance(turn(second), dict)
    clusters.renew(first)
    assert first._fenced  # and its process ends, with no command to make it notice
    first_again = clusters.begin("a")  # as its `up --join` starts it
    assert isinstance(turn(first_again), Unreachable)
    for _ in range(20):
        clusters.renew(second)
        refused = turn(first_again)
        assert isinstance(refused, Fenced)
        assert "/home/b on " in refused.what
    assert isinstance(turn(second), dict)
    assert not second._fenced


class SlowHandle:
    """As Ray gives one of a process that takes so long to start; each poll is half a second, in which it has a turn."""

    def __init__(self, clusters: Clusters, actor: ControllerActor, starts_s: float) -> None:
        self._clusters, self._actor, self._starts_s = clusters, actor, starts_s

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._ask(name, *arguments))

    def _ask(self, name: str, *arguments: Any) -> Any:
        if name == "routes":
            self._clusters.now_s += 0.5
            self._actor._turn()
            return None
        self._clusters.now_s += self._starts_s if name == "about" else 0.0
        return asyncio.run(getattr(self._actor, name)(*arguments))


def test_up_waits_for_a_dead_clusters_store_and_says_so_however_slow_its_process_starts(
    clusters: Clusters, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("headrace.controller_start.ray.get", lambda answer, timeout: answer)  # noqa: ARG005 - Ray's name
    turn(clusters.begin("a"))
    settings = read_settings({"HEADRACE_HOME": str(tmp_path), "HEADRACE_STORE_URL": clusters.store_url})
    waits: list[HeadraceError] = []
    handle = SlowHandle(clusters, clusters.begin("b"), starts_s=START_TIMEOUT_S - 10)
    assert _trouble_of(handle, settings, START_TIMEOUT_S, waits=waits.append) is None
    assert ["/home/a on " in one.what for one in waits] == [True]


def test_it_is_held_since_the_first_process_of_the_cluster(clusters: Clusters) -> None:
    turn(clusters.begin("a"))
    clusters.now_s += 1000.0
    again = clusters.begin("a")
    turn(again)
    holder = again._controller._store.holder() if again._controller is not None else None
    assert holder is not None
    assert (holder.since_s, holder.renewed_s) == (1_790_000_100.0, 1_790_001_100.0)


def test_a_run_whose_store_another_cluster_has_lacks_its_controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = Fenced("another cluster's controller has this store", where="store", remedy="end that one")

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v2/health/live":
            return httpx.Response(200, json={"live": True})
        return httpx.Response(409, json={"error": to_wire(told)})

    monkeypatch.setattr(looking, "transport_to", lambda *_: httpx.MockTransport(answer))
    monkeypatch.setattr(RunState, "ray_lives", lambda _: True)
    state = RunState(
        run_id="r",
        phase=Phase.RUNNING,
        started_s=0.0,
        owns_ray=False,
        addresses=Addresses(http="http://127.0.0.1:1", ray="127.0.0.1:2"),
    )
    settings = read_settings({"HEADRACE_HOME": str(tmp_path)})
    assert looking.look(state, settings) == (Away(RunPart.CONTROLLER, told.what),)


def test_it_takes_over_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[bool] = []
    failures: list[HeadraceError | None] = [Unreachable("Ray is not there yet", where="ray", remedy="wait"), None, None]

    def up_once(supervisor: Supervisor) -> HeadraceError | None:
        asked.append(supervisor._options.take_over)
        return failures[len(asked) - 1]

    monkeypatch.setattr(Supervisor, "_up_once", up_once)
    settings = read_settings({"HEADRACE_HOME": str(tmp_path)})
    supervisor = Supervisor(UpOptions(take_over=True), settings, lambda _line: None, gives_up=False)
    for _ in failures:
        supervisor._bring_up((RunPart.RAY,))
    assert asked == [True, True, False]


def test_what_was_taken_over_is_not_taken_again_by_a_later_up() -> None:
    left = RunState(run_id="r", phase=Phase.RUNNING, started_s=0.0, owns_ray=True, options=UpOptions(take_over=True))
    assert as_it_was(UpOptions(), (), left, owns_ray=True) == (UpOptions(), ())
    assert not_taken_up(UpOptions(take_over=True), UpOptions()) == ()
