"""A replica that dies under the gateway's load."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from headrace.local.home import read_settings
from tests.conftest import RayCluster
from tests.live import loaded, running
from tests.models import mlp_artifact

MODEL = "killed"
APP = "killed--v1"
pytestmark = pytest.mark.timeout(600)


def test_a_replica_killed_under_load_costs_no_caller_its_answer(ray_cluster: RayCluster, tmp_path: Path) -> None:
    artifact = mlp_artifact(tmp_path, MODEL)
    with running(ray_cluster, read_settings({"HEADRACE_HOME": str(tmp_path / "home")}), MODEL) as model:
        model.apply({"resources": {"cpus": 0.1}, "scaling": {"mode": "manual", "replicas": 2}, "timeout_s": 120}, {})
        model.register(artifact)
        assert model.ended(1).state == "promoted"
        killed = min(replicas(ray_cluster, set()))
        with loaded(model, artifact, gateway=4, scorers=0) as load:
            load.await_calls(50)
            os.kill(killed, signal.SIGKILL)
            begin, calls = time.monotonic(), load.calls
            load.await_calls(100)
            replicas(ray_cluster, {killed})
            took_s = time.monotonic() - begin
            load.await_calls(100)
    assert load.failures == []
    print(f"a killed replica was replaced after {took_s:.1f} s; no call of {load.calls - calls} failed")  # noqa: T201


def replicas(cluster: RayCluster, without: set[int]) -> set[int]:
    """Two running replicas, as soon as there are; the test's own limit ends the wait."""
    while len(found := cluster.replica_pids(APP) - without) < 2:
        time.sleep(0.05)
    return found
