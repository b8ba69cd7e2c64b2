"""Scaling by hand, through the dashboard's API and through the command: seen in both, never undone, kept across restarts."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from cluster.commands.models import AppView
from cluster.errors import Unreachable
from deployments.transport.remote import DEPLOYMENT
from headrace.local.home import read_settings
from tests.conftest import RayCluster
from tests.support.live import Service, controller_process, running
from tests.support.models import mlp_artifact

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]
MODEL = "by-hand"
APP = f"{MODEL}--v1"
SERVING: dict[str, Any] = {"resources": {"cpus": 0.1}, "scaling": {"mode": "manual", "replicas": 1}}


@pytest.fixture
def service(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("by-hand")
    with running(ray_cluster, read_settings({"HEADRACE_HOME": str(folder / "home")}), MODEL) as service:
        service.register(mlp_artifact(folder, MODEL))
        service.apply(SERVING, {})
        assert service.ended(1).state == "promoted"
        yield service


def seen(service: Service, wanted: Callable[[AppView], bool], *, looks: int = 0, timeout_s: float = 200.0) -> AppView:
    """The app as the controller sees it, once it is as wanted, and after so many more looks of the controller at the world."""
    pause, last, first_tick_s, ticks = threading.Event(), None, 0.0, 0
    for _ in range(round(timeout_s / 0.1)):
        try:
            status = service.control.status()
        except Unreachable:
            continue
        finally:
            pause.wait(0.1)
        last = next((app for model in status.models if model.name == MODEL for app in model.apps if app.app == APP), None)
        if status.tick_s > first_tick_s:
            first_tick_s, ticks = status.tick_s, ticks + 1
        if last is None or not wanted(last):
            ticks = 0
        elif ticks > looks:
            return last
    raise AssertionError(f"never seen; last: {last}")


def is_at(replicas: int) -> Callable[[AppView], bool]:
    return lambda app: (app.status, app.replicas, app.target_replicas) == ("ready", replicas, replicas)


def by_dashboard(cluster: RayCluster, replicas: int) -> None:
    address = f"{cluster.dashboard_url}/api/v1/applications/{APP}/deployments/{DEPLOYMENT}/scale"
    httpx.post(address, json={"target_num_replicas": replicas}, headers=cluster.headers, timeout=60).raise_for_status()


def dashboard_target(cluster: RayCluster) -> int:
    answer = httpx.get(f"{cluster.dashboard_url}/api/serve/applications/", headers=cluster.headers, timeout=60).json()
    return int(answer["applications"][APP]["deployments"][DEPLOYMENT]["target_num_replicas"])


def test_a_number_given_by_hand_stays(service: Service, ray_cluster: RayCluster) -> None:
    by_dashboard(ray_cluster, 2)
    seen(service, is_at(2), looks=4)

    killed = controller_process()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(60)
    seen(service, is_at(2), looks=4)
    assert controller_process().pid != killed.pid

    service.control.scale(MODEL, 1)
    seen(service, is_at(1), looks=4)
    assert dashboard_target(ray_cluster) == 1

    service.control.scale(MODEL, 0)
    seen(service, is_at(0), looks=2)
    service.apply(SERVING | {"timeout_s": 5}, {})  # other changes of the document don't bring it back
    seen(service, is_at(0), looks=2)
    by_dashboard(ray_cluster, 1)
    seen(service, is_at(1), looks=2)
