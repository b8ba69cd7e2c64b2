"""What the tests here share: one control plane with nodes that run nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.control_plane import ControlPlane, can_run, control_plane
from tests.support.kube_api import KubeApi

ZONES = ("a", "b", "c")
ROOM = {"cpu": "64", "memory": "256Gi", "pods": "110"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the programs there is nothing to test."""
    for item in items:
        if item.get_closest_marker("kubernetes") and not can_run():
            item.add_marker(pytest.mark.skip(reason="`make kubernetes` builds the control plane"))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlPlane, KubeApi]]:
    """The control plane, and an administrator's connection."""
    with control_plane(tmp_path_factory.mktemp("kubernetes")) as (plane, api):
        for zone in ZONES:
            add_node(api, f"node-{zone}", zone)
        yield plane, api


@pytest.fixture
def plane(running: tuple[ControlPlane, KubeApi]) -> ControlPlane:
    """The control plane."""
    return running[0]


@pytest.fixture
def api(running: tuple[ControlPlane, KubeApi]) -> KubeApi:
    """An administrator's connection."""
    return running[1]


def add_node(api: KubeApi, name: str, zone: str, **room: str) -> None:
    """A node that KWOK makes ready."""
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}
    has = ROOM | room
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    api.apply(node)
    api.set_status(node | {"status": {"capacity": has, "allocatable": has}})
