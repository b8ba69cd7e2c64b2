"""Rollouts on the real cluster, with real versions, under load by HTTP and by scorers: users never notice a bad one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.local.home import read_settings
from tests.conftest import RayCluster
from tests.live import Artifact, Load, Service, controller_process, loaded, running
from tests.models import crashing_artifact, failing_artifact, mlp_artifact, slow_artifact

pytestmark = pytest.mark.timeout(600)
MODEL = "live"
SERVING: dict[str, Any] = {"resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
PLAN: dict[str, Any] = {
    "steps": [{"weight": 30, "bake_s": 0.5}, {"weight": 100, "bake_s": 0.5}],
    "checks": {"error_rate": {"margin": 0.02}},
    "keep_warm_s": 0,
}
SHADOWED = PLAN | {
    "steps": [{"shadow": 100, "bake_s": 0.5}, {"weight": 100, "bake_s": 0.5}],
    "checks": {"disagreement": {"margin": 0.1}},
}
TIMED = PLAN | {"checks": {"slow": {"bound_ms": 250, "margin": 0.3}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def stable(folder: Path) -> Artifact:
    return mlp_artifact(folder, MODEL)


@pytest.fixture(scope="module")
def service(ray_cluster: RayCluster, folder: Path, stable: Artifact) -> Iterator[Service]:
    """Version 1 is stable."""
    with running(ray_cluster, read_settings({"HEADRACE_HOME": str(folder / "home")}), MODEL) as service:
        service.register(stable)
        service.apply(SERVING, PLAN)
        assert service.ended(1).state == "promoted"
        yield service


@pytest.fixture(scope="module")
def load(service: Service, stable: Artifact) -> Iterator[Load]:
    with loaded(service, stable) as load:
        yield load


def test_a_good_version_is_promoted(service: Service, load: Load, folder: Path) -> None:
    service.apply(SERVING, PLAN)
    load.await_calls(20)
    ended = service.ended(service.register(mlp_artifact(folder, MODEL, nudge=0.1)))
    assert (ended.state, ended.weight) == ("promoted", 100)
    load.await_calls(20)
    assert load.failures == []


def broken_artifact(folder: Path, model: str) -> Artifact:
    artifact = mlp_artifact(folder, model, nudge=0.2)
    (Path(artifact[0]) / "model.onnx").write_bytes(b"broken")
    return artifact


def wrong_artifact(folder: Path, model: str) -> Artifact:
    return mlp_artifact(folder, model, seed=1)


def slow(folder: Path, model: str) -> Artifact:
    return slow_artifact(folder, model, rounds=4000)


@pytest.mark.parametrize(
    ("make", "plan", "why"),
    [
        (failing_artifact, PLAN, "error rate: candidate"),
        (slow, TIMED, "slow: candidate"),
        (wrong_artifact, SHADOWED, "disagreement: candidate"),
        (broken_artifact, PLAN, "model.onnx is damaged"),
        (crashing_artifact, PLAN, ""),  # seen in the answers or in the replicas' state, whichever is first
    ],
    ids=["fails some inputs", "is slow", "answers wrongly", "fails to load", "crashes its process"],
)
def test_a_bad_version_is_rolled_back_and_users_never_notice(
    service: Service, load: Load, folder: Path, make: Callable[[Path, str], Artifact], plan: dict[str, Any], why: str
) -> None:
    service.apply(SERVING, plan)
    stable = service.control.model(MODEL).stable
    candidate = service.register(make(folder, MODEL))
    ended = service.ended(candidate)
    assert ended.state == "rolled_back"
    assert why in ended.reason
    load.await_calls(20)
    assert load.failures == []
    assert service.control.model(MODEL).stable == stable
    last = service.control.rollout_history(MODEL).audit[-1]
    assert (last.event, last.detail["candidate"]) == ("rolled_back", candidate)


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
    load.await_calls(20)
    assert load.failures == []
