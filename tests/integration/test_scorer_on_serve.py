"""The scorer over real replicas: Serve handles, processes that die, scaling by hand."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import ray

from cluster.errors import EngineFailure, NoCapacity
from cluster.fleet.serving import Resources, Scaling, ScalingMode, Serving
from cluster.ports import AppState, AppStatus
from cluster.rollout.evidence import Counts
from cluster.routing.split import to_candidate
from cluster.versions import Version, VersionId
from deployments.artifacts.manifest import Manifest
from deployments.engines.datatypes import Array
from deployments.engines.load import load_engine
from deployments.scoring.scorer import RoutedScorer
from deployments.serving import fleet as fleet_module
from deployments.serving.fleet import ServeFleet
from deployments.transport import remote
from deployments.transport.lines import client
from deployments.transport.lines.client import Line, Lines
from deployments.transport.lines.frames import Broken, Reply, TimedReply
from deployments.transport.remote import DEPLOYMENT, RemoteTransport
from tests.conftest import RayCluster
from tests.contract.test_fleet import await_state, is_ready
from tests.support.models import INPUT, OUTPUT, SIGNATURE, failing_artifact, mlp_artifact, rows
from tests.support.routing import TableControl, route, target
from tests.support.waiting import until

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


@asynccontextmanager
async def called(artifacts: dict[int, Artifact], number: int = 1) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Eight callers of a version, whose every answer must be right. Gives what waits for so many more of their calls, or so many
    of each of them."""
    scorer = await opened(control(artifacts, number))
    image, stop = rows(64), asyncio.Event()
    want, done = expected(artifacts[number], image), [0] * 8

    async def caller(index: int) -> None:
        while not stop.is_set():
            scored = await scorer.score(MODEL, {INPUT: image}, timeout_s=30)
            assert scored.errors == {}
            np.testing.assert_allclose(scored.outputs[OUTPUT], want, atol=1e-5)
            done[index] += 1

    async def more(calls: int = 0, *, of_each: int = 0) -> None:
        before = list(done)
        while not any(each.done() for each in callers):
            new = [now - then for now, then in zip(done, before, strict=True)]
            if sum(new) >= calls and min(new) >= of_each:
                break
            await asyncio.sleep(0.02)

    callers = [asyncio.create_task(caller(index)) for index in range(8)]
    try:
        yield more
    finally:
        stop.set()
        await asyncio.gather(*callers)
        await scorer.close()


def has_ended(pid: int) -> bool:
    """Whether the process is no more."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


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
    pids = ray_cluster.replica_pids(app)
    assert len(pids) == 2
    async with called(artifacts) as more:
        await more(50)
        os.kill(min(pids), signal.SIGKILL)
        await more(200)
    assert has_ended(min(pids))
    # Serve brings the lost one back, and the app is READY all along.
    state = await asyncio.to_thread(await_state, fleet, lambda _: len(ray_cluster.replica_pids(app) - {min(pids)}) == 2)
    assert state[app].status is AppStatus.READY


async def test_a_replica_that_stands_still_costs_no_call(
    fleet: ServeFleet, ray_cluster: RayCluster, artifacts: dict[int, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "STUCK_AFTER_AT_LEAST_S", 2.0)
    monkeypatch.setattr(fleet_module, "HEALTH_EVERY_S", 0.5)
    still = version(4, artifacts[1])
    fleet.deploy(still, SERVING.model_copy(update={"timeout_s": 0.5}), 2)
    await asyncio.to_thread(await_state, fleet, is_ready(still.id.app))
    stopped = min(ray_cluster.replica_pids(still.id.app))
    async with called({4: artifacts[1]}, 4) as more:
        await more(of_each=10)
        os.kill(stopped, signal.SIGSTOP)
        try:
            await more(of_each=10)  # those whom it owed an answer too
            await asyncio.to_thread(until, lambda: len(ray_cluster.replica_pids(still.id.app) - {stopped}) == 2, 120)
            await more(of_each=10)
        finally:
            with suppress(ProcessLookupError):  # Ray may have killed it by now
                os.kill(stopped, signal.SIGCONT)
        await asyncio.to_thread(until, lambda: has_ended(stopped), 120)
        await more(of_each=10)


async def test_calls_go_by_lines_and_serve_counts_them(
    fleet: ServeFleet, artifacts: dict[int, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_line, counted = 0, []

    class Watched(Line):
        async def score(
            self, tensors: Mapping[str, Array], timeout_s: float, *, timed: bool = False
        ) -> Reply | TimedReply | Broken:
            nonlocal by_line
            by_line += 1
            call = asyncio.create_task(super().score(tensors, timeout_s, timed=timed))
            await asyncio.sleep(0)
            counted.append(serve_counts())
            return await call

    def serve_counts() -> int:
        counts = scorer._remote._handle(f"{MODEL}--v1")._router._asyncio_router._metrics_manager  # type: ignore[attr-defined]
        return sum(counts.num_requests_sent_to_replicas.values())

    monkeypatch.setattr(client, "Line", Watched)
    scorer = await opened(control(artifacts, 1))
    image = rows(3)
    want = expected(artifacts[1], image)
    async with asyncio.timeout(60):
        while by_line < 20:
            scored = await scorer.score(MODEL, {INPUT: image})
            np.testing.assert_allclose(scored.outputs[OUTPUT], want, atol=1e-5)
    assert counted == [1] * len(counted)
    assert serve_counts() == 0
    await scorer.close()


async def test_a_large_call_goes_by_serve(
    fleet: ServeFleet, artifacts: dict[int, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lines, "pick", lambda _: pytest.fail("no line bears it"))
    monkeypatch.setattr(remote, "LINE_MOST_BYTES", 1000)
    scorer = await opened(control(artifacts, 1))
    scored = await scorer.score(MODEL, {INPUT: rows(3)})
    await scorer.close()
    assert scored.errors == {}


async def test_replicas_that_are_scaled_away_answer_what_they_took(
    fleet: ServeFleet, ray_cluster: RayCluster, artifacts: dict[int, Artifact]
) -> None:
    app = f"{MODEL}--v1"
    async with called(artifacts) as more:
        for replicas in (1, 2):
            fleet.scale(app, replicas)
            await asyncio.to_thread(await_state, fleet, wants(app, replicas))
            await asyncio.to_thread(until, lambda count=replicas: len(ray_cluster.replica_pids(app)) == count, 60)
            await more(100)


async def test_a_call_that_breaks_in_the_replica_is_told_and_in_its_log(
    fleet: ServeFleet, ray_cluster: RayCluster, artifacts: dict[int, Artifact]
) -> None:
    transport, asked = RemoteTransport(), target(1, artifacts[1], model=MODEL)
    await transport.score(asked, {INPUT: rows(1)}, 30.0)

    def logged() -> str:
        return "".join(path.read_text() for path in (ray_cluster.logs / "serve").glob(f"replica_{MODEL}--v1_*.log"))

    odd = {INPUT: rows(2), "no rows at all": np.array(0.0)}  # no scorer lets such a call pass
    async with asyncio.timeout(60):
        while "a call failed" not in logged():
            broken = await transport.score(asked, odd, 30.0)
            assert sorted(broken.failed) == [0, 1]
            assert all("the replica failed" in error.what for error in broken.failed.values())
    await transport.close()
    assert "Traceback" in logged()


async def test_a_version_without_an_app_is_no_capacity_in_time(ray_cluster: RayCluster, artifacts: dict[int, Artifact]) -> None:
    told = TableControl(route(target(9, artifacts[1], model=MODEL), model=MODEL, serving=SERVING))
    scorer = await opened(told)
    with pytest.raises(NoCapacity, match="in time"):
        await scorer.score(MODEL, {INPUT: rows(1)}, timeout_s=0.5)
    await scorer.close()


def test_scales_by_hand_in_both_ways(fleet: ServeFleet, ray_cluster: RayCluster) -> None:
    app = f"{MODEL}--v2"
    address = f"{ray_cluster.dashboard_url}/api/v1/applications/{app}/deployments/{DEPLOYMENT}/scale"
    answer = httpx.post(address, json={"target_num_replicas": 2}, headers=ray_cluster.headers, timeout=30)
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
