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

from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.slots import folder_of
from headrace.local.ports import free_port
from tests.conftest import RayCluster
from tests.support.certificates import Pki

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


def command(
    cluster: RayCluster, folder: Path, *words: str, home: str = "home", **variables: str
) -> subprocess.CompletedProcess[str]:
    """`headrace WORDS --json` on the cluster."""
    store = {"HEADRACE_STORE_URL": f"sqlite:///{folder}/home/store.db"}  # which the controller keeps, whoever asks
    environment = os.environ | store | {"RAY_ADDRESS": cluster.address, "HEADRACE_HOME": str(folder / home)} | variables
    program = [str(Path(sys.executable).with_name("headrace")), *words, "--json"]
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)


@pytest.mark.proof
def test_up_joins_a_running_cluster_and_down_leaves_it_as_it_was(ray_cluster: RayCluster, neighbour: str, tmp_path: Path) -> None:
    def headrace(*words: str, home: str = "home") -> subprocess.CompletedProcess[str]:
        return command(ray_cluster, tmp_path, *words, home=home)

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


@pytest.mark.proof
@pytest.mark.usefixtures("neighbour")  # else `down` would end the Serve of all tests
@pytest.mark.skipif(usable_haproxy() is None, reason="Ray brings no HAProxy here")
def test_a_door_with_tls_on_a_cluster_that_is_joined(ray_cluster: RayCluster, tmp_path: Path) -> None:
    """Its files are of its node, which looks at them; our commands trust the certificate that they were given."""

    def headrace(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return command(ray_cluster, tmp_path, *words, **variables)

    pki = Pki(tmp_path)
    certificate, key = pki.issue("door", "door.example")
    client = dict(zip(("HEADRACE_CLIENT_CERT", "HEADRACE_CLIENT_KEY"), map(str, pki.issue("client")), strict=True))
    ports = ["--http-port", ray_cluster.http_url.rpartition(":")[2], "--grpc-port", str(free_port())]
    tls = ["--tls-cert", str(certificate), "--tls-key", str(key), "--client-ca", str(pki.ca), "--client-certs", "required"]
    try:
        refused = headrace("up", *ports, *tls)
        assert refused.returncode == 2
        assert "our own commands would not be let in" in refused.stderr
        absent = headrace("up", *ports, "--tls-cert", str(tmp_path / "absent.pem"), "--tls-key", str(key))
        assert absent.returncode == 5, absent.stderr
        assert "absent.pem: can't be read: No such file or directory" in absent.stderr
        serve.delete("gateway")
        up = headrace("up", *ports, *tls, **client)
        assert up.returncode == 0, up.stderr
        assert json.loads(up.stdout)["addresses"]["http"] == ray_cluster.http_url.replace("http:", "https:")
        assert headrace("status", **client).returncode == 0
        stranger = headrace("status")
        assert stranger.returncode == 5
        assert "HEADRACE_CLIENT_CERT" in stranger.stderr
        other = command(ray_cluster, tmp_path, "up", *ports, home="other")
        assert other.returncode == 4
        assert f"--tls-cert {certificate} --tls-key {key} --client-ca {pki.ca} --client-certs required" in other.stderr
    finally:
        down = headrace("down")
    assert json.loads(down.stdout) == {"was_running": True, "drained": True}
