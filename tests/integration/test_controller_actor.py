"""The controller as Ray runs it: killed with kill -9 in the middle of a rollout, it goes on where it was.

The fleet is a fake in the actor's process, so the kill loses the whole fleet too: what is under test is the controller's memory.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from cluster.control_plane import ControlPlane
from cluster.errors import BadArtifact, BadInput, Conflict, NotFound, Unreachable
from cluster.rollout.evidence import Counts, EvidenceBatch, EvidenceKey
from cluster.routing.routes import EMPTY, Route, RouteTable, Stamp
from cluster.store.sql import SqlStore
from deployments.control.client import CONTROLLER_ACTOR, NAMESPACE, connect
from headrace.controller_start import start_controller
from headrace.local.home import Settings, read_settings
from tests.conftest import RayCluster
from tests.support.models import SIGNATURE, mlp_artifact

pytestmark = pytest.mark.anyio
PLAN = {"steps": [{"weight": 10, "bake_s": 0.1}, {"weight": 100, "bake_s": 0.1}]}


@pytest.fixture
def settings(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[Settings]:
    yield read_settings({"HEADRACE_HOME": str(tmp_path)})
    try:
        ray.kill(ray.get_actor(CONTROLLER_ACTOR, NAMESPACE))
    except ValueError:
        return  # the test had it ended


@pytest.fixture
async def control(settings: Settings) -> ControlPlane:
    _start(settings)
    return connect()


def _start(settings: Settings) -> None:
    start_controller(settings, fleet="deployments.serving.fake_fleet:FakeFleet", feeds="deployments.control.fake_control:NoFeeds")


def _about() -> dict[str, Any]:
    about: dict[str, Any] = ray.get(ray.get_actor(CONTROLLER_ACTOR, NAMESPACE).about.remote(), timeout=30)
    return about


async def _patiently(ask: Callable[[], Awaitable[Any]]) -> Any:
    """As the scorers do: asks again while the controller is away."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await ask()
            except Unreachable:
                await asyncio.sleep(0.1)


async def _route(control: ControlPlane, wanted: Callable[[Route], bool], after: Stamp = EMPTY.stamp) -> RouteTable:
    """Long-polls as a scorer does, until the route is as wanted."""
    async with asyncio.timeout(60):
        while True:
            table: RouteTable = await _patiently(lambda: control.routes(after, 5.0))  # noqa: B023 - asked at once
            if "digits" in table.routes and wanted(table.routes["digits"]):
                return table
            after = table.stamp


async def _register(control: ControlPlane, version: int, root: Path) -> None:
    uri, digest, _ = mlp_artifact(root, seed=version)
    request = {"model": "digits", "artifact_uri": uri, "digest": digest, "engine": "onnx", "signature": SIGNATURE}
    nowhere = request | {"artifact_uri": "/etc"}
    with pytest.raises(BadArtifact, match="no manifest"):
        await control.call("version.register", nowhere)
    assert (await control.call("version.register", request))["version"] == version


async def test_a_kill_in_the_middle_of_a_rollout_loses_nothing(control: ControlPlane, settings: Settings, tmp_path: Path) -> None:
    await _register(control, 1, tmp_path)
    await control.call("apply", {"models": [{"name": "digits", "rollout": PLAN}]})
    await _route(control, lambda route: route.stable == 1)
    await _register(control, 2, tmp_path)
    table = await _route(control, lambda route: route.candidate == 2)
    stage = table.routes["digits"].stage
    few = EvidenceBatch(
        "scorer-1",
        1,
        {EvidenceKey("digits", stage, 1): Counts(rows=90), EvidenceKey("digits", stage, 2): Counts(rows=10, errors=1)},
    )
    await control.push(few)

    async def counted() -> dict[str, Any]:
        rollout: dict[str, Any] = (await control.call("rollout.status", {"model": "digits"}))["rollout"]
        if rollout["checks"][0]["high"] >= 1:
            raise Unreachable("not counted yet")
        return rollout

    before = await _patiently(counted)
    old = _about()
    process = psutil.Process(old["pid"])
    os.kill(old["pid"], signal.SIGKILL)
    process.wait(30)

    after = await _patiently(counted)
    assert after == before  # state, step, evidence and start are what they were
    assert _about()["pid"] != old["pid"]
    again = await _route(control, lambda route: route.candidate == 2)
    assert again.number >= table.number
    assert again.routes["digits"].salt == table.routes["digits"].salt
    await control.push(few)  # a scorer that got no answer sends it again: not counted twice
    assert (await counted())["checks"] == before["checks"]

    enough = {EvidenceKey("digits", stage, 1): Counts(rows=90_000), EvidenceKey("digits", stage, 2): Counts(rows=10_000)}
    await control.push(EvidenceBatch("scorer-1", 2, enough))
    table = await _route(control, lambda route: route.weight == 10_000, again.stamp)
    await control.push(
        EvidenceBatch("scorer-1", 3, {EvidenceKey("digits", table.routes["digits"].stage, 2): Counts(rows=10_000)})
    )
    table = await _route(control, lambda route: route.stable == 2, table.stamp)
    history = await control.call("rollout.history", {"model": "digits"})
    assert [rollout["state"] for rollout in history["rollouts"]] == ["promoted", "promoted"]


async def test_starting_again_is_harmless_and_another_store_is_refused(
    control: ControlPlane, settings: Settings, tmp_path: Path
) -> None:
    pid = _about()["pid"]
    _start(settings)
    assert _about()["pid"] == pid
    with pytest.raises(Conflict, match="keeps another store"):
        _start(read_settings({"HEADRACE_HOME": str(tmp_path / "other")}))
    assert _about()["pid"] == pid


async def test_one_that_was_replaced_ends_and_one_start_brings_a_new_one(control: ControlPlane, settings: Settings) -> None:
    pid = _about()["pid"]
    process = psutil.Process(pid)
    other = SqlStore(settings.store_url)
    other.acquire()
    other.close()
    with pytest.raises(Conflict, match="another controller has taken over"):
        await control.call("apply", {"models": [{"name": "digits"}]})
    await asyncio.to_thread(process.wait, 60)
    await asyncio.to_thread(_start, settings)
    assert (await _patiently(lambda: control.call("status", {})))["models"] == []
    assert _about()["pid"] != pid


async def test_errors_arrive_as_what_they_are(control: ControlPlane) -> None:
    with pytest.raises(NotFound, match="no model 'nope'"):
        await control.call("model.show", {"model": "nope"})
    with pytest.raises(BadInput, match=r"model\.show: model"):
        await control.call("model.show", {})


async def test_without_a_controller_every_call_is_unreachable(ray_cluster: RayCluster) -> None:
    control = connect()
    with pytest.raises(Unreachable, match="the controller is away"):
        await control.call("status", {})
    with pytest.raises(Unreachable, match="the controller is away"):
        await control.routes(EMPTY.stamp, 0.1)


async def test_a_store_that_cannot_be_used_ends_the_start(ray_cluster: RayCluster, tmp_path: Path) -> None:
    settings = read_settings({"HEADRACE_HOME": str(tmp_path), "HEADRACE_STORE_URL": "nonsense"})
    with pytest.raises(BadInput, match="not a usable store URL"):
        _start(settings)
    with pytest.raises(Unreachable):
        await connect().call("status", {})
