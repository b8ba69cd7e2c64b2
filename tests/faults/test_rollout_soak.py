"""Long proofs of rollouts: several in a row under load, and a candidate whose process is killed again and again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from headrace.local.home import read_settings
from tests.conftest import RayCluster
from tests.support.live import Artifact, Load, Service, loaded, running
from tests.support.models import failing_artifact, mlp_artifact

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1200)]
ROLLOUTS = int(os.environ.get("HEADRACE_SOAK_ROLLOUTS", "8"))
MODEL = "soak"
SERVING: dict[str, Any] = {"resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}
PLAN: dict[str, Any] = {
    "steps": [{"weight": 30, "bake_s": 0.5}, {"weight": 100, "bake_s": 0.5}],
    "checks": {"error_rate": {"margin": 0.02}},
    "keep_warm_s": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("soak")


@pytest.fixture(scope="module")
def service(ray_cluster: RayCluster, folder: Path) -> Iterator[Service]:
    with running(ray_cluster, read_settings({"HEADRACE_HOME": str(folder / "home")}), MODEL) as service:
        yield service


@pytest.fixture(scope="module")
def load(service: Service, folder: Path) -> Iterator[Load]:
    stable: Artifact = mlp_artifact(folder, MODEL)
    service.register(stable)
    service.apply(SERVING, PLAN)
    assert service.ended(1).state == "promoted"
    with loaded(service, stable) as load:
        yield load


def test_rollouts_and_rollbacks_in_a_row_fail_no_request(service: Service, load: Load, folder: Path) -> None:
    for number in range(ROLLOUTS):
        bad = number % 2 == 1
        artifact = failing_artifact(folder, MODEL) if bad else mlp_artifact(folder, MODEL, nudge=0.1 + 0.01 * number)
        ended = service.ended(service.register(artifact))
        assert ended.state == ("rolled_back" if bad else "promoted"), ended.reason
        load.await_calls(20)
        assert load.failures == []


def test_a_candidate_that_is_killed_again_and_again_is_rolled_back(
    service: Service, load: Load, folder: Path, ray_cluster: RayCluster
) -> None:
    """As the kernel's memory killer does to a version that leaks."""
    stop = threading.Event()
    # Long enough to be killed in: steps of half a second may be over before the first kill is felt.
    service.apply(SERVING, PLAN | {"steps": [{"weight": 30, "bake_s": 20}, {"weight": 100, "bake_s": 0.5}]})
    candidate = service.register(mlp_artifact(folder, MODEL, nudge=0.9))

    def kill() -> None:
        service.seen(lambda rollout: rollout.candidate == candidate and rollout.state == "canary")
        while not stop.is_set():
            for pid in ray_cluster.replica_pids(f"{MODEL}--v{candidate}"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        ended = service.ended(candidate)
    finally:
        stop.set()
        killer.join()
    assert ended.state == "rolled_back", ended.reason
    load.await_calls(20)
    assert load.failures == []
