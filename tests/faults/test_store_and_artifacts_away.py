"""A service loses what it keeps its memory and its versions in: PostgreSQL, an object store, a mount. What scores goes on.

One service with a stream and callers all the time. Prints how long each took to be whole again.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.commands.models import AppView
from cluster.commands.rollouts import RolloutView
from cluster.errors import Unreachable
from deployments.artifacts.cache import CacheSettings
from headrace.audit.export import export
from headrace.audit.verify import verify
from headrace.doctor.problem import Weight
from headrace.local.home import read_settings
from tests.conftest import RayCluster
from tests.support.diagnosed import diagnosed
from tests.support.live import Artifact, Load, Service, controller_process, loaded, running
from tests.support.live_stream import Events, streaming
from tests.support.models import mlp_artifact
from tests.support.object_store import ObjectStore, object_store
from tests.support.postgres import Database, database
from tests.support.waiting import until

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]
MODEL, FROM_STORE = "lasting", "lasting-objects"
SERVING: dict[str, Any] = {"resources": {"cpus": 0.1}, "scaling": {"mode": "manual", "replicas": 2}}
PLAN: dict[str, Any] = {"steps": [{"weight": 30, "bake_s": 4}, {"weight": 100, "bake_s": 0.5}], "keep_warm_s": 0}
AT_ONCE: dict[str, Any] = {"steps": [{"weight": 100}]}
BACK_S = 120.0


@dataclass(frozen=True)
class Site:
    """The service `lasting`, with its store, its stream and its callers. The files of its first version are in `mounted`."""

    service: Service
    database: Database
    events: Events
    load: Load
    folder: Path
    mounted: Path


@pytest.fixture(scope="module")
def site(ray_cluster: RayCluster, broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("away")
    mounted = folder / "mount" / "versions"
    stable = mlp_artifact(mounted, MODEL)
    with database(tmp_path_factory.mktemp("postgres")) as store:
        settings = read_settings({"HEADRACE_HOME": str(folder / "home"), "HEADRACE_STORE_URL": store.url})
        with running(ray_cluster, settings, MODEL) as service:
            service.register(stable)
            service.apply(SERVING, AT_ONCE)
            assert service.ended(1).state == "promoted"
            service.apply(SERVING, PLAN)
            with streaming(service, broker, stable) as events, loaded(service, stable, gateway=1, count=8) as load:
                yield Site(service, store, events, load, folder, mounted)


@pytest.fixture
def unharmed(site: Site) -> Iterator[Site]:
    """After each test, no caller has met a failure, and every record of the stream has its one answer."""
    yield site
    site.load.await_calls(20)
    assert site.load.failures == []
    site.events.settle()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints past pytest's capture."""

    def out(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {line}")
            sys.stdout.flush()

    return out


def test_the_database_crashes_and_comes_back(unharmed: Site, say: Callable[[str], None]) -> None:
    service, before = unharmed.service, controller_process().pid
    deadline = {"deadline_s": 1234}
    unharmed.database.crash()
    for _ in range(2):  # also when it is known that the store is away
        with pytest.raises(Unreachable, match=r"(?s)the store does not answer.*check that it runs"):
            service.apply(SERVING, PLAN | deadline)
    unharmed.load.await_calls(20)
    unharmed.events.settle()
    found = diagnosed(unharmed.folder / "doctor", HEADRACE_STORE_URL=unharmed.database.url, HEADRACE_URL=service.url)
    told = [problem for problem in found if "the store does not answer" in problem.what]
    assert {problem.weight for problem in told} == {Weight.FAULT}
    assert any("check that it runs, and that this machine may reach it" in problem.remedy for problem in told)

    unharmed.database.start()
    begun_s = time.monotonic()

    def applied() -> bool:
        service.apply(SERVING, PLAN | deadline)
        return True

    until(applied, BACK_S, trouble=(Unreachable,))
    say(f"PostgreSQL crashed: commands are taken {time.monotonic() - begun_s:.1f} s after it answers again")
    plan = service.control.model(MODEL).plan
    assert plan is not None
    assert plan.deadline_s == deadline["deadline_s"]
    assert controller_process().pid == before
    assert controller_process().create_time() < begun_s + time.time() - time.monotonic()


def test_the_database_restarts_in_the_midst_of_a_rollout(unharmed: Site, say: Callable[[str], None]) -> None:
    service = unharmed.service
    service.apply(SERVING, PLAN)
    candidate = service.register(mlp_artifact(unharmed.mounted, MODEL, nudge=0.1))
    service.seen(lambda rollout: rollout.candidate == candidate and rollout.state == "canary")
    unharmed.database.stop()
    unharmed.load.await_calls(20)
    unharmed.database.start()
    begun_s = time.monotonic()
    service.seen(lambda rollout: rollout.candidate == candidate)
    told_s = time.monotonic() - begun_s
    ended = service.ended(candidate)
    say(
        f"PostgreSQL restarted in the midst of a rollout: its state is told {told_s:.1f} s after it answers again, "
        f"the rollout has ended after {time.monotonic() - begun_s:.1f} s"
    )
    assert ended.state == "promoted", ended.reason
    decided = [each.event for each in service.control.rollout_history(MODEL).audit if each.rollout == ended.id]
    assert decided == ["started", "warming", "canary", "canary", "promoted"]  # each once
    exported = export(service.control, unharmed.folder / "audit")
    assert verify(unharmed.folder / "audit", exported.key).records == exported.records


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("objects")) as made:
        yield made


def test_replicas_restart_while_their_files_are_away(
    unharmed: Site, objects: ObjectStore, ray_cluster: RayCluster, say: Callable[[str], None]
) -> None:
    """A version in an object store, and one on a disk that is mounted: of each, one replica of two is killed."""
    other = Service(FROM_STORE, unharmed.service.url, unharmed.service.control)
    stored = mlp_artifact(objects.uri, FROM_STORE)
    other.register(stored)
    other.apply(SERVING, AT_ONCE)
    assert other.ended(1).state == "promoted"
    pair = {"an object store": Away(other, stored), "a mount": Away(unharmed.service, None)}
    for one in pair.values():
        until(lambda one=one: one.app().replicas == 2, BACK_S)  # type: ignore[misc]
    gone = unharmed.mounted.with_name("unmounted")
    alike = mlp_artifact(unharmed.folder / "alike", FROM_STORE)  # gives the same answers
    with loaded(other, alike, gateway=1, scorers=0, count=8) as load:
        objects.leave()
        unharmed.mounted.rename(gone)
        try:
            shutil.rmtree(CacheSettings.from_environment().folder / stored[1])  # as on a node that never had it
            for one in pair.values():
                one.lose_a_replica(ray_cluster)
            for one in pair.values():
                until(one.waits_and_says_why, BACK_S)
            load.await_calls(20)
            unharmed.load.await_calls(20)
            variables = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
            found = diagnosed(
                unharmed.folder / "doctor",
                **variables,
                HEADRACE_RAY_ADDRESS=ray_cluster.address,
                HEADRACE_STORE_URL=unharmed.database.url,
                HEADRACE_URL=other.url,
            )
        finally:
            gone.rename(unharmed.mounted)
            objects.come_back()
        begun_s = time.monotonic()
        for name, one in pair.items():
            until(lambda one=one: one.app().replicas == 2 and one.app().message == "", BACK_S)  # type: ignore[misc]
            say(f"the files came back to {name}: the replica that waited serves after {time.monotonic() - begun_s:.1f} s")
        assert load.failures == []
    remedies = {problem.where: problem.remedy for problem in found if problem.weight is Weight.FAULT}
    assert "see that its place is there" in remedies[stored[0]]
    assert any("mount the disk that has it" in remedy for remedy in remedies.values())


@dataclass(frozen=True)
class Away:
    """A model that scores with its only version, or its newest."""

    service: Service
    stored: Artifact | None

    def app(self) -> AppView:
        model = self.service.control.model(self.service.name)
        return next(app for app in model.apps if app.app == f"{self.service.name}--v{model.stable}")

    def lose_a_replica(self, cluster: RayCluster) -> None:
        killed = psutil.Process(min(cluster.replica_pids(self.app().app)))
        os.kill(killed.pid, signal.SIGKILL)

    def waits_and_says_why(self) -> bool:
        """It serves with the replica that is left, and says of the other why it does not start, and what to do."""
        app = self.app()
        wanted = "see that its place is there" if self.stored else "mount the disk that has it"
        return (app.status, app.replicas, app.target_replicas) == ("ready", 1, 2) and wanted in app.message


def test_a_candidate_whose_files_are_away_is_waited_for(
    unharmed: Site, objects: ObjectStore, ray_cluster: RayCluster, say: Callable[[str], None]
) -> None:
    """As it starts, and as a canary whose replicas die: the rollout stays at its step, says what for, and goes on."""
    name = f"{MODEL}-candidates"
    other = Service(name, unharmed.service.url, unharmed.service.control)
    stable = mlp_artifact(objects.uri, name)
    other.register(stable)
    other.apply(SERVING, AT_ONCE)
    assert other.ended(1).state == "promoted"
    other.apply(SERVING, {"steps": [{"weight": 30, "bake_s": 600}, {"weight": 100}], "start": "manual"})
    stored = mlp_artifact(objects.uri, name, nudge=0.1)
    candidate = other.register(stored)
    alike = mlp_artifact(unharmed.folder / "alike", name)

    def waits(state: str) -> RolloutView:
        told = other.seen(lambda rollout: rollout.waits_since_s is not None)
        assert told.state == state, told.reason
        assert "goes on by itself" in told.reason
        assert stored[0] in told.reason
        assert "see that its place is there" in told.reason
        return told

    with loaded(other, alike, gateway=1, scorers=0, count=8) as load:
        objects.leave()
        try:
            other.control.start_rollout(name, candidate)
            waits("warming")
            load.await_calls(20)
        finally:
            objects.come_back()
        begun_s = time.monotonic()
        other.seen(lambda rollout: rollout.state == "canary")
        say(f"the files of a candidate came back: it gets its share after {time.monotonic() - begun_s:.1f} s")
        load.await_calls(20)

        objects.leave()
        try:
            shutil.rmtree(CacheSettings.from_environment().folder / stored[1])
            for pid in ray_cluster.replica_pids(f"{name}--v{candidate}"):
                os.kill(pid, signal.SIGKILL)
            told = waits("canary")
            assert (told.step, told.weight) == (1, 30)
            load.await_calls(20)
        finally:
            objects.come_back()
        begun_s = time.monotonic()
        other.seen(lambda rollout: rollout.waits_since_s is None)
        say(f"the files of a canary came back: it goes on after {time.monotonic() - begun_s:.1f} s")
        assert load.failures == []
    other.control.promote(name)
    ended = other.ended(candidate)
    assert ended.state == "promoted", ended.reason
    events = [each.event for each in other.control.rollout_history(name).audit if each.rollout == ended.id]
    assert events == ["started", "warming", "waits", "goes on", "canary", "waits", "goes on", "promoted"]
