"""`headrace up` and `down` on a Ray that somebody else runs, with an app of theirs on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import serve
from ray.serve.schema import ApplicationStatus

from deployments.gateway.door.slots import folder_of
from headrace.local.ports import free_port
from tests.conftest import RayCluster

LIMIT_S = 280


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Neighbour:
    """Somebody else's work."""


@pytest.fixture
def neighbour(ray_cluster: RayCluster) -> Iterator[str]:
    name = f"neighbour-{uuid.uuid4().hex[:6]}"
    serve.run(Neighbour.bind(), name=name, route_prefix=None)
    yield name
    serve.delete(name)


@pytest.mark.proof
def test_up_joins_a_running_cluster_and_down_leaves_it_as_it_was(ray_cluster: RayCluster, neighbour: str, tmp_path: Path) -> None:
    def headrace(*words: str, home: str = "home") -> subprocess.CompletedProcess[str]:
        store = {"HEADRACE_STORE_URL": f"sqlite:///{tmp_path}/home/store.db"}  # which the controller keeps, whoever asks
        environment = os.environ | store | {"RAY_ADDRESS": ray_cluster.address, "HEADRACE_HOME": str(tmp_path / home)}
        command = [str(Path(sys.executable).with_name("headrace")), *words, "--json"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    port, grpc = ray_cluster.http_url.rpartition(":")[2], str(free_port())
    try:
        up = headrace("up", "--http-port", port, "--grpc-port", grpc)
        assert up.returncode == 0, up.stderr
        elsewhere = headrace("up", "--http-port", str(free_port()), "--grpc-port", grpc, home="other")
        assert elsewhere.returncode == 4
        assert f"--http-port {port}" in elsewhere.stderr
        assert json.loads(up.stdout)["addresses"]["http"] == ray_cluster.http_url
        status = json.loads(headrace("status").stdout)
        assert status["addresses"]["dashboard"] == ray_cluster.dashboard_url
        assert serve.status().applications["gateway"].status is ApplicationStatus.RUNNING
    finally:
        down = headrace("down")
    assert json.loads(down.stdout) == {"was_running": True, "drained": True}
    assert serve.status().applications[neighbour].status is ApplicationStatus.RUNNING
    assert "gateway" not in serve.status().applications
    assert not folder_of(ray.get_runtime_context().get_node_id()).exists()  # the door is closed too
    assert ray.cluster_resources()["CPU"] == 8
