"""A process that goes under the gateway's load: killed, a replica of the model or one of the gateway itself; or scaled down."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from deployments.gateway.deployment import APP, GatewaySettings
from headrace.local.home import read_settings
from tests.conftest import RayCluster
from tests.support.live import Artifact, Service, loaded, running
from tests.support.models import mlp_artifact

MODEL = "killed"
CALLERS = 4
ROWS = 20  # 63 kB: HAProxy can send again what fits into its 128 KiB
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def served(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Artifact]]:
    folder = tmp_path_factory.mktemp("killed")
    artifact = mlp_artifact(folder, MODEL)
    home = read_settings({"HEADRACE_HOME": str(folder / "home")})
    with running(ray_cluster, home, MODEL, GatewaySettings(replicas=2)) as model:
        model.apply({"resources": {"cpus": 0.1}, "scaling": {"mode": "manual", "replicas": 2}, "timeout_s": 120}, {})
        model.register(artifact)
        assert model.ended(1).state == "promoted"
        while httpx.get(f"{model.url}/v2/models/{MODEL}/ready", timeout=60).status_code != 200:
            time.sleep(0.05)
        yield model, artifact


def test_a_replica_killed_under_load_costs_no_caller_its_answer(
    ray_cluster: RayCluster, served: tuple[Service, Artifact]
) -> None:
    failures = kill_one(ray_cluster, *served, app=f"{MODEL}--v1")
    assert failures == []


def test_a_gateway_killed_under_load_costs_no_caller_its_answer(
    ray_cluster: RayCluster, served: tuple[Service, Artifact]
) -> None:
    failures = kill_one(ray_cluster, *served, app=APP)
    assert failures == []


def test_scaling_down_under_load_fails_no_request(ray_cluster: RayCluster, served: tuple[Service, Artifact]) -> None:
    model, artifact = served
    model.control.scale(MODEL, 2)
    before = replicas(ray_cluster, f"{MODEL}--v1", set())
    with loaded(model, artifact, gateway=CALLERS, scorers=1, count=ROWS) as load:
        load.await_calls(50)
        model.control.scale(MODEL, 1)
        while len(left := ray_cluster.replica_pids(f"{MODEL}--v1")) > 1:
            load.await_calls(5)
        while len([pid for pid in before if psutil.pid_exists(pid)]) > 1:  # the other has drained and is gone
            load.await_calls(5)
        load.await_calls(100)
    assert len(left) == 1
    assert load.failures == []


def kill_one(cluster: RayCluster, model: Service, artifact: Artifact, *, app: str) -> list[str]:
    """Kills one of the app's two replicas under load; what failed until another stood in its place and a hundred calls on."""
    killed = min(replicas(cluster, app, set()))
    with loaded(model, artifact, gateway=CALLERS, scorers=0, count=ROWS) as load:
        load.await_calls(50)
        os.kill(killed, signal.SIGKILL)
        begin, calls = time.monotonic(), load.calls
        load.await_calls(100)
        replicas(cluster, app, {killed})
        took_s = time.monotonic() - begin
        load.await_calls(100)
    print(f"{app}: replaced after {took_s:.1f} s; of {load.calls - calls} calls failed: {load.failures}")  # noqa: T201
    return load.failures


def replicas(cluster: RayCluster, app: str, without: set[int]) -> set[int]:
    """Two running replicas, as soon as there are; the test's own limit ends the wait."""
    while len(found := cluster.replica_pids(app) - without) < 2:
        time.sleep(0.05)
    return found
