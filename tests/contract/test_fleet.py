"""The contract of every fleet: what the controller may count on, from the one in memory and from Ray Serve's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from cluster.errors import Conflict, NotFound
from cluster.fleet.serving import Resources, Scaling, ScalingMode, Serving
from cluster.ports import AppState, AppStatus, Fleet
from cluster.versions import Version, VersionId
from deployments.serving.fake_fleet import FakeFleet
from tests.support.models import SIGNATURE, mlp_artifact

LIGHT = Resources(cpus=0.1)
AUTO = Serving(resources=LIGHT)
MANUAL = Serving(resources=LIGHT, scaling=Scaling(mode=ScalingMode.MANUAL, replicas=1))
MODEL = "fleet-contract"


@pytest.fixture(params=["fake", "serve"])
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    if request.param == "fake":
        yield FakeFleet()
        return
    request.getfixturevalue("ray_cluster")
    from deployments.serving.fleet import ServeFleet

    real = ServeFleet()
    yield real
    mine = [app for app in real.state() if app.startswith(MODEL)]
    for app in mine:
        real.retire(app)
    await_state(real, lambda seen: not any(app in seen for app in mine))


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """Version numbers, so that no test meets an app of another."""
    return iter(range(1, 1000))


@pytest.fixture
def version(tmp_path: Path, numbers: Iterator[int]) -> Version:
    uri, digest, _ = mlp_artifact(tmp_path, model=MODEL)
    return Version(VersionId(MODEL, next(numbers)), uri, digest, "onnx", SIGNATURE, created_s=0.0)


def await_state(
    fleet: Fleet, wanted: Callable[[Mapping[str, AppState]], bool], timeout_s: float = 240.0
) -> Mapping[str, AppState]:
    end = time.monotonic() + timeout_s
    while not wanted(seen := fleet.state()):
        assert time.monotonic() < end, f"never seen; last: {seen}"
        time.sleep(0.05)
    return seen


def is_ready(app: str) -> Callable[[Mapping[str, AppState]], bool]:
    return lambda seen: app in seen and seen[app].status is AppStatus.READY and seen[app].replicas == seen[app].target_replicas


def test_a_version_becomes_ready_and_is_gone_after_retiring(fleet: Fleet, version: Version) -> None:
    app = version.id.app
    assert app not in fleet.state()
    fleet.deploy(version, AUTO, 1)
    fleet.deploy(version, AUTO, 1)  # it exists: nothing happens
    seen = await_state(fleet, is_ready(app))
    assert seen[app] == AppState(app, AppStatus.READY, 1, 1)
    fleet.deploy(version, AUTO, 1)  # a running app is not run again: it stays ready
    assert fleet.state()[app].status is AppStatus.READY
    fleet.retire(app)
    fleet.retire(app)
    await_state(fleet, lambda seen: app not in seen)
    fleet.retire(app)  # nothing happens where there is none


def test_scales_by_hand_and_stays_ready(fleet: Fleet, version: Version) -> None:
    app = version.id.app
    fleet.deploy(version, MANUAL, 2)
    assert await_state(fleet, is_ready(app))[app].target_replicas == 2
    fleet.scale(app, 1)
    fleet.scale(app, 1)
    seen = await_state(fleet, lambda seen: seen[app].replicas == 1)
    assert (seen[app].status, seen[app].target_replicas) == (AppStatus.READY, 1)


def test_begins_with_one_replica_at_least_and_may_then_have_none(fleet: Fleet, version: Version) -> None:
    app = version.id.app
    fleet.deploy(version, MANUAL, 0)
    assert await_state(fleet, is_ready(app))[app].target_replicas == 1
    fleet.scale(app, 0)
    seen = await_state(fleet, lambda seen: seen[app].replicas == 0)
    assert (seen[app].status, seen[app].target_replicas) == (AppStatus.READY, 0)


def test_refuses_to_scale_what_scales_on_its_own_and_what_does_not_exist(fleet: Fleet, version: Version) -> None:
    with pytest.raises(NotFound):
        fleet.scale(version.id.app, 1)
    fleet.deploy(version, AUTO, 1)
    with pytest.raises(Conflict, match="manual"):
        fleet.scale(version.id.app, 2)


def test_a_version_whose_files_are_away_and_one_that_is_damaged_are_told_apart(
    fleet: Fleet, version: Version, numbers: Iterator[int], tmp_path: Path
) -> None:
    uri, digest, _ = mlp_artifact(tmp_path / "damaged", model=MODEL)
    (Path(uri) / "model.onnx").write_bytes(b"no model")
    damaged = Version(VersionId(MODEL, next(numbers)), uri, digest, "onnx", SIGNATURE, created_s=0.0)
    Path(version.artifact_uri).rename(tmp_path / "unmounted")
    if isinstance(fleet, FakeFleet):
        fleet.doom(version.id.app, "there is no such folder (mount the disk that has it)", transient=True)
        fleet.doom(damaged.id.app, "model.onnx is damaged")
    for one in (version, damaged):
        fleet.deploy(one, AUTO, 1)
    away, broken = version.id.app, damaged.id.app
    seen = await_state(fleet, lambda seen: all(seen[app].status is AppStatus.FAILED for app in (away, broken)))
    assert "mount the disk that has it" in seen[away].message
    assert "model.onnx is damaged" in seen[broken].message
    assert (seen[away].transient, seen[broken].transient) == (True, False)
    fleet.retire(away)
    await_state(fleet, lambda seen: away not in seen)
    (tmp_path / "unmounted").rename(version.artifact_uri)
    if isinstance(fleet, FakeFleet):
        fleet.mend(away)
    fleet.deploy(version, AUTO, 1)
    seen = await_state(fleet, is_ready(away))
    assert seen[away] == AppState(away, AppStatus.READY, 1, 1)
