"""A scheduled batch on a real Ray: fired while no controller ran, by one that is killed, and run exactly once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from cluster.commands.feeds import FeedView
from cluster.errors import HeadraceError
from cluster.store.sql import SqlStore
from consumers.batch.write.runs import RunHistory
from deployments.artifacts.places import locate
from deployments.control.client import CONTROLLER_ACTOR, NAMESPACE
from headrace.controller_start import start_controller
from headrace.local.home import Settings, read_settings
from tests.conftest import RayCluster
from tests.support import waiting
from tests.support.batch_parts import digits_pin, published, spec_of, write_dataset

WAIT_S = 240.0


@pytest.fixture
def settings(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[Settings]:
    yield read_settings({"HEADRACE_HOME": str(tmp_path / "home")})
    ray.kill(ray.get_actor(CONTROLLER_ACTOR, NAMESPACE))


def start(settings: Settings) -> None:
    start_controller(settings, fleet="deployments.serving.fake_fleet:FakeFleet", feeds="deployments.control.fake_control:NoFeeds")


def call(command: str, payload: dict[str, Any]) -> dict[str, Any]:
    actor = ray.get_actor(CONTROLLER_ACTOR, NAMESPACE)
    answer: dict[str, Any] | HeadraceError = ray.get(actor.call.remote(command, payload), timeout=60)
    if isinstance(answer, HeadraceError):
        raise answer
    return answer


# It is killed meanwhile, and comes back.
until = partial(waiting.until, limit_s=WAIT_S, every_s=0.2, trouble=(HeadraceError, ray.exceptions.RayError))


def fires() -> list[tuple[str, str]]:
    shown = FeedView.model_validate(call("feed.show", {"kind": "batch", "name": "nightly"})).schedule
    assert shown is not None
    return [(fire.state, fire.reason) for fire in shown.fires]


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_a_missed_fire_runs_once_though_the_controller_is_killed(settings: Settings, tmp_path: Path) -> None:
    pin = digits_pin(tmp_path)
    total = write_dataset(tmp_path / "in", files=1)
    spec = spec_of(tmp_path / "in", tmp_path / "out", workers={"max": 1}, output={"mode": "append"})
    start(settings)
    register = {
        "model": "digits",
        "artifact_uri": pin.artifact_uri,
        "digest": pin.digest,
        "engine": "onnx",
        "signature": pin.signature.model_dump(mode="json"),
    }
    call("version.register", register)
    feed = {"kind": "batch", "name": "nightly", "model": "digits", "spec": spec.model_dump(mode="json")}
    call("apply", {"models": [{"name": "digits"}], "feeds": [feed | {"schedule": {"cron": "0 * * * *", "backoff_s": 0}}]})
    until(lambda: call("model.show", {"model": "digits"})["stable"] == 1)
    assert fires() == []

    ray.kill(ray.get_actor(CONTROLLER_ACTOR, NAMESPACE))
    _applied_hours_ago(settings)
    start(settings)
    until(lambda: fires()[-1][0] in ("submitted", "running"))
    about = ray.get(ray.get_actor(CONTROLLER_ACTOR, NAMESPACE).about.remote(), timeout=30)
    process = psutil.Process(about["pid"])
    os.kill(about["pid"], signal.SIGKILL)
    process.wait(30)
    until(lambda: fires()[-1][0] not in ("submitted", "running"))
    # The newest was run, the ones before it were missed.
    assert fires() == [("skipped", "missed while nobody looked")] * (len(fires()) - 1) + [("succeeded", "")]
    (run,) = RunHistory(locate(spec.output.path)).all()
    assert run.record().fire.startswith("sched-nightly-")
    assert published(tmp_path / "out").num_rows == total


def _applied_hours_ago(settings: Settings) -> None:
    """As if the schedule had been applied three hours ago and no controller had run since."""
    store = SqlStore(settings.store_url)
    state = store.load()
    (key,) = state.feeds
    past = replace(state.feeds[key], since_s=time.time() - 3 * 3600)
    store.save(store.acquire(), state, replace(state, feeds={key: past}), ())
    store.close()
