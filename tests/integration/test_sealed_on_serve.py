"""Sealed versions in real replicas: they open with a key of their node, and say why they don't without."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.ports import AppStatus
from cluster.versions import Version, VersionId
from deployments.keys.hpke_key import HpkeKey, new_hpke_pair
from deployments.keys.ring import VARIABLE
from deployments.keys.vault_key import vault_key
from deployments.serving.fleet import ServeFleet
from deployments.serving.replica import Replica
from tests.conftest import RayCluster
from tests.contract.test_fleet import MANUAL, await_state, is_ready
from tests.support.key_services import TOKEN, small_vault
from tests.support.models import SIGNATURE, mlp_artifact
from tests.support.node_keys import node_keys
from tests.support.sealed import key_in, sealed_copy

pytestmark = pytest.mark.proof

MODEL = "sealed-on-serve"


@pytest.fixture
def key(ray_cluster: RayCluster) -> Iterator[HpkeKey]:
    """One that the node has."""
    with node_keys() as folder:
        yield key_in(folder, "own")


@pytest.fixture
def fleet(ray_cluster: RayCluster) -> Iterator[ServeFleet]:
    found = ServeFleet()
    yield found
    mine = [app for app in found.state() if app.startswith(MODEL)]
    for app in mine:
        found.retire(app)
    await_state(found, lambda seen: not any(app in seen for app in mine))


def test_a_replica_opens_it_in_memory_or_says_why_not(
    tmp_path: Path, key: HpkeKey, fleet: ServeFleet, ray_cluster: RayCluster
) -> None:
    plain = Path(mlp_artifact(tmp_path / "plain", model=MODEL)[0])
    weights = (plain / "model.onnx").read_bytes()[5000:5064]
    stranger = HpkeKey.of_pem(new_hpke_pair()[1], "stranger")
    versions = []
    for number, holder in enumerate((key, stranger), 1):
        artifact = sealed_copy(plain, tmp_path / str(number), holder)
        versions.append(Version(VersionId(MODEL, number), artifact.uri, artifact.digest, "onnx", SIGNATURE, created_s=0.0))
        fleet.deploy(versions[-1], MANUAL, 1)
    opened, refused = (version.id.app for version in versions)
    await_state(fleet, is_ready(opened))
    seen = await_state(fleet, lambda seen: seen[refused].status is AppStatus.FAILED)
    assert "no key of this machine opens it" in seen[refused].message
    assert stranger.key_id in seen[refused].message

    replicas = [
        one for one in psutil.process_iter(["cmdline"]) if f"ServeReplica:{opened}" in " ".join(one.info["cmdline"] or [])
    ]
    assert replicas
    for replica in replicas:
        assert int(Path(f"/proc/{replica.pid}/coredump_filter").read_text(), 16) == 0
    private = (Path(os.environ[VARIABLE].removeprefix("file:")) / "own.key").read_text().splitlines()[1]
    written = [file for file in ray_cluster.logs.rglob("*") if file.is_file()]
    assert written
    for file in written:
        content = file.read_bytes()
        assert weights not in content
        assert private.encode() not in content


def asking_vault(url: str) -> type[Replica]:
    """A replica on a node whose environment names a key of that Vault's."""

    class AsksVault(Replica):
        def __init__(self, *given: Any, **named: Any) -> None:
            os.environ.update({VARIABLE: "vault:transit/prod", "VAULT_ADDR": url, "VAULT_TOKEN": TOKEN})
            super().__init__(*given, **named)

    return AsksVault


def test_while_vault_is_away_a_replica_that_restarts_waits_says_so_and_comes_back_by_itself(
    tmp_path: Path, fleet: ServeFleet, ray_cluster: RayCluster
) -> None:
    plain = Path(mlp_artifact(tmp_path / "plain", model=MODEL)[0])
    with small_vault().serving() as vault:
        settings = {"VAULT_ADDR": vault.url, "VAULT_TOKEN": TOKEN}
        os.environ.update(settings)
        try:
            artifact = sealed_copy(plain, tmp_path / "sealed", vault_key("transit/prod", settings))
        finally:
            for name in settings:
                del os.environ[name]
        version = Version(VersionId(MODEL, 3), artifact.uri, artifact.digest, "onnx", SIGNATURE, created_s=0.0)
        app = version.id.app
        fleet.replica = asking_vault(vault.url)
        fleet.deploy(version, MANUAL, 1)
        await_state(fleet, is_ready(app))
        (pid,) = ray_cluster.replica_pids(app)
        vault.away = True
        asked = len(vault.asked)
        os.kill(pid, signal.SIGKILL)
        seen = await_state(fleet, lambda seen: "Vault does not answer" in seen[app].message)
        assert seen[app].status is AppStatus.UNHEALTHY
        assert seen[app].replicas == 0
        assert "vault:transit/prod" in seen[app].message
        assert len(vault.asked) > asked
        vault.away = False
        await_state(fleet, is_ready(app))
        assert ray_cluster.replica_pids(app).isdisjoint({pid})
