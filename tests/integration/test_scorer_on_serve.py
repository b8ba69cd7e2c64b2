"""The scorer over real replicas: Serve handles, processes that die, scaling by hand."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import ray

from cluster.errors import EngineFailure, NoCapacity
from cluster.evidence import Counts
from cluster.ports import AppState, AppStatus
from cluster.serving import Resources, Scaling, ScalingMode, Serving
from cluster.traffic import to_candidate
from cluster.versions import Version, VersionId
from deployments.artifact import Manifest
from deployments.engines.load import load_engine
from deployments.fleet import ServeFleet
from deployments.remote import DEPLOYMENT
from deployments.scorer import RoutedScorer
from tests.conftest import RayCluster
from tests.contract.test_fleet import await_state, is_ready
from tests.models import INPUT, OUTPUT, SIGNATURE, failing_artifact, mlp_artifact, rows
from tests.routing import TableControl, route, target

pytestmark = pytest.mark.anyio

Artifact = tuple[str, str, Manifest]
MODEL = "on-serve"
SERVING = Serving(resources=Resources(cpus=0.1), scaling=Scaling(mode=ScalingMode.MANUAL, replicas=2), timeout_s=30)
KEYS = [f"key {i}".encode() for i in range(400)]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Artifact]:
    """Version 1 is good, 2 is good and answers otherwise, 3 fails on bright rows."""
    root = tmp_path_factory.mktemp("artifacts")
    return {
        1: mlp_artifact(root, model=MODEL, seed=1),
        2: mlp_artifact(root, model=MODEL, seed=2),
        3: failing_artifact(root, model=MODEL, seed=1),
    }


@pytest.fixture(scope="module")
def fleet(ray_cluster: RayCluster, artifacts: dict[int, Artifact]) -> Iterator[ServeFleet]:
    """Version 1 on two replicas, the others on one."""
    fleet = ServeFleet()
    versions = [version(number, artifact) for number, artifact in artifacts.items()]
    try:
        for one in versions:
            fleet.deploy(one, SERVING, 2 if one.id.number == 1 else 1)
        for one in versions:
            await_state(fleet, is_ready(one.id.app))
        yield fleet
    finally:
        mine = [app for app in fleet.state() if app.startswith(f"{MODEL}--")]
        for app in mine:
            fleet.retire(app)
        await_state(fleet, lambda seen: not any(app in seen for app in mine))


def version(number: int, artifact: Artifact) -> Version:
    return Version(VersionId(MODEL, number), artifact[0], artifact[1], "onnx", SIGNATURE, created_s=0.0)


async def opened(control: TableControl) -> RoutedScorer:
    scorer = RoutedScorer(control)
    await scorer.start()
    return scorer


def control(artifacts: dict[int, Artifact], *numbers: int, **split: object) -> TableControl:
    targets = [target(number, artifacts[number], model=MODEL) for number in numbers]
    return TableControl(route(*targets, model=MODEL, serving=SERVING, **split))


def expected(artifact: Artifact, image: np.ndarray) -> np.ndarray:
    return load_engine(Path(artifact[0])).score({INPUT: image})[OUTPUT]


async def test_two_versions_share_the_keys(fleet: ServeFleet, artifacts: dict[int, Artifact]) -> None:
    told = control(artifacts, 1, 2, candidate=2, weight=3000, stage="r1.1", salt=3)
    scorer = await opened(told)
    image = rows(400)
    scored = await scorer.score(MODEL, {INPUT: image}, KEYS)
    await scorer.close()
    theirs = to_candidate(KEYS, salt=3, weight=3000, random=np.random.default_rng())
    assert scored.versions.tolist() == np.where(theirs, 2, 1).tolist()
    want = np.where(theirs[:, None], expected(artifacts[2], image), expected(artifacts[1], image))
    np.testing.assert_allclose(scored.outputs[OUTPUT], want, atol=1e-5)
    assert scored.errors == {}
    assert told.counts(2) == Counts(rows=int(theirs.sum()), calls=1)


async def test_stable_answers_what_the_candidate_fails(fleet: ServeFleet, artifacts: dict[int, Artifact]) -> None:
    told = control(artifacts, 1, 3, candidate=3, weight=5000, stage="r1.1", salt=3)
    scorer = await opened(told)
    image = rows(400)
    image[::10, 0] = 0.9
    scored = await scorer.score(MODEL, {INPUT: image}, KEYS)
    await scorer.close()
    theirs = to_candidate(KEYS, salt=3, weight=5000, random=np.random.default_rng())
    dark = np.zeros(400, dtype=bool)
    dark[::10] = True
    assert scored.errors == {}
    assert scored.versions.tolist() == np.where(theirs & ~dark, 3, 1).tolist()
    np.testing.assert_allclose(scored.outputs[OUTPUT], expected(artifacts[1], image), atol=1e-5)
    assert told.counts(3) == Counts(rows=int(theirs.sum()), errors=int((theirs & dark).sum()), calls=1)


async def test_only_the_rows_that_stable_fails_carry_an_error(fleet: ServeFleet, artifacts: dict[int, Artifact]) -> None:
    scorer = await opened(control(artifacts, 3))
    image = rows(1000)
    image[[0, 500, 999], 0] = 0.9
    scored = await scorer.score(MODEL, {INPUT: image})
    await scorer.close()
    assert sorted(scored.errors) == [0, 500, 999]
    assert all(isinstance(error, EngineFailure) for error in scored.errors.values())


async def test_a_killed_replica_loses_no_call(fleet: ServeFleet, ray_cluster: RayCluster, artifacts: dict[int, Artifact]) -> None:
    app = f"{MODEL}--v1"
    scorer = await opened(control(artifacts, 1))
    image = rows(64)
    want = expected(artifacts[1], image)
    pids = ray_cluster.replica_pids(app)
    assert len(pids) == 2
    stop = asyncio.Event()
    done = 0

    async def caller() -> None:
        nonlocal done
        while not stop.is_set():
            scored = await scorer.score(MODEL, {INPUT: image})
            assert scored.errors == {}
            np.testing.assert_allclose(scored.outputs[OUTPUT], want, atol=1e-5)
            done += 1

    async def seen(enough: Callable[[], bool]) -> None:
        while not enough():
            await asyncio.sleep(0.02)

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    await seen(lambda: done >= 50)
    os.kill(min(pids), signal.SIGKILL)
    after_kill = done
    await seen(lambda: done >= after_kill + 200 or any(c.done() for c in callers))
    stop.set()
    await asyncio.gather(*callers)
    await scorer.close()
    assert not psutil.pid_exists(min(pids)) or psutil.Process(min(pids)).status() == psutil.STATUS_ZOMBIE
    # Serve brings the lost one back, and the app is READY all along.
    state = await asyncio.to_thread(await_state, fleet, lambda _: len(ray_cluster.replica_pids(app) - {min(pids)}) == 2)
    assert state[app].status is AppStatus.READY


async def test_a_version_without_an_app_is_no_capacity_in_time(ray_cluster: RayCluster, artifacts: dict[int, Artifact]) -> None:
    told = TableControl(route(target(9, artifacts[1], model=MODEL), model=MODEL, serving=SERVING))
    scorer = await opened(told)
    with pytest.raises(NoCapacity, match="in time"):
        await scorer.score(MODEL, {INPUT: rows(1)}, timeout_s=0.5)
    await scorer.close()


def test_scales_by_hand_in_both_ways(fleet: ServeFleet, ray_cluster: RayCluster) -> None:
    app = f"{MODEL}--v2"
    address = f"{ray_cluster.dashboard_url}/api/v1/applications/{app}/deployments/{DEPLOYMENT}/scale"
    answer = httpx.post(address, json={"target_num_replicas": 2}, timeout=30)
    assert answer.status_code == 200, answer.text
    seen = await_state(fleet, wants(app, 2))
    assert seen[app].status is AppStatus.READY
    fleet.scale(app, 1)
    seen = await_state(fleet, wants(app, 1))
    assert seen[app].status is AppStatus.READY


def wants(app: str, replicas: int) -> Callable[[Mapping[str, AppState]], bool]:
    return lambda seen: seen[app].target_replicas == replicas and seen[app].replicas == replicas


def test_a_broken_artifact_ends_as_failed_with_its_reason(ray_cluster: RayCluster, tmp_path: Path) -> None:
    uri, digest, _ = mlp_artifact(tmp_path, model=MODEL)
    (Path(uri) / "model.onnx").write_bytes(b"broken")
    fleet = ServeFleet()
    broken = version(99, (uri, digest, None))  # type: ignore[arg-type]
    fleet.deploy(broken, SERVING, 1)
    try:
        seen = await_state(fleet, lambda s: s[broken.id.app].status is AppStatus.FAILED)
        assert "model.onnx is damaged" in seen[broken.id.app].message
        assert "\n" not in seen[broken.id.app].message
        assert ray.is_initialized()
    finally:
        fleet.retire(broken.id.app)
        await_state(fleet, lambda s: broken.id.app not in s)


async def test_replicas_of_onnx_versions_never_load_torch(fleet: ServeFleet, ray_cluster: RayCluster) -> None:
    pids = ray_cluster.replica_pids(f"{MODEL}--v1")
    assert pids
    for pid in pids:
        mapped = {entry.path for entry in psutil.Process(pid).memory_maps()}
        assert any("onnxruntime" in path for path in mapped)
        assert not any("libtorch" in path for path in mapped)
