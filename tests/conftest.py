"""What all tests share: one real Ray with Serve for the whole run, started only where a test asks for it."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, settings

from headrace.local.ports import free_port
from headrace.local.processes import alive_after
from headrace.local.ray.head import SERVE_ENVIRONMENT
from tests.support.broker import broker as broker
from tests.support.builds import builds_here as builds_here
from tests.support.machine import machine as machine
from tests.support.postgres import postgres as postgres
from tests.support.postgres import postgres_server as postgres_server
from tests.support.workers import SharingScheduling, begins

# How fast an example runs says more about what else the machine does than about our code. The same examples each time: a test
# that fails once in a hundred runs tells nobody what he broke.
settings.register_profile("headrace", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headrace")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharingScheduling:
    """Called by xdist where a run has several workers."""
    return SharingScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first; a file's tests keep their order. Simulations of minutes, which are the proofs among unit
    tests, begin before all else: one worker had them alone at the end."""
    items.sort(key=lambda item: (not _simulates(item), begins(item.nodeid.split("::")[0])))


def _simulates(item: pytest.Item) -> bool:
    return "/unit/" in item.nodeid and item.get_closest_marker("proof") is not None


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio."""
    return "asyncio"


@dataclass(frozen=True)
class RayCluster:
    """Where the run's cluster is, and its logs. This process is connected to it, in the namespace "headrace"."""

    address: str
    dashboard_url: str
    http_url: str
    logs: Path

    @property
    def headers(self) -> dict[str, str]:
        """What the dashboard wants of who asks."""
        return {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}

    @property
    def http_port(self) -> int:
        """Where the gateway shall listen."""
        return int(self.http_url.rpartition(":")[2])

    def replica_pids(self, app: str) -> set[int]:
        """The processes of an app's running replicas, as the dashboard's REST API tells them."""
        answer = httpx.get(f"{self.dashboard_url}/api/serve/applications/", headers=self.headers, timeout=60).json()
        deployments = answer["applications"].get(app, {"deployments": {}})["deployments"].values()
        return {replica["pid"] for one in deployments for replica in one["replicas"] if replica["state"] == "RUNNING"}


# Read by Ray when it is imported, or by its processes when they start.
_SETTINGS = {
    # As with `headrace up`: who has no token is refused.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(16),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.05",
    # Ray's workers are nice (15) by default: beside anything else that computes, replicas stand still.
    "RAY_worker_niceness": "0",
    # Otherwise Ray starts a process for each declared CPU at once.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_DEDUP_LOGS": "0",
    # A machine with many tests on few cores is no reason to give up on a process.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240",
    # Where replicas look for keys: a folder of this run's, which is not there until a test puts one in.
    "HEADRACE_KEYS": f"file:{tempfile.gettempdir()}/hr-keys-{secrets.token_hex(8)}",
    # Whose objects are those of tests.support.object_store.
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_EC2_METADATA_DISABLED": "true",
    # As `headrace up` sets it.
    **SERVE_ENVIRONMENT,
}
os.environ.update(_SETTINGS)


# What Ray says where it gave up waiting for a part of itself.
_TOO_SLOW = ("timed out during startup", "Timed out", "Failed to start")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """One node with 8 declared CPUs, Serve, the dashboard on, a free port for the gateway. Ended by pid, whatever happens."""
    import ray
    from ray import serve

    # Ray's sockets must fit into 107 bytes: pytest's own directories are too long.
    folder = tempfile.mkdtemp(prefix="hr-")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    http_port = free_port()
    try:
        gcs_address, dashboard_port = _start_ray(f"{folder}/r")  # Ray opens its folder to every user
        with contextlib.suppress(TimeoutError):  # Serve's own patience is a minute
            serve.start(proxy_location="Disabled")
        yield RayCluster(
            address=gcs_address,
            dashboard_url=f"http://127.0.0.1:{dashboard_port}",
            http_url=f"http://127.0.0.1:{http_port}",
            logs=Path(folder) / "r" / "session_latest" / "logs",
        )
    finally:
        started = [child for child in psutil.Process().children(recursive=True) if child.pid not in before and _is_rays(child)]
        ray.shutdown()
        _end(started)
        shutil.rmtree(folder, ignore_errors=True)


def _start_ray(folder: str) -> tuple[str, int]:
    """Connects this process to a new Ray; its GCS address and dashboard port.

    Ray gives a node 30 s to start, which a busy machine may exceed.
    """
    import ray
    from ray._private import parameter

    # Jobs go through the node's agent, which takes a fixed port unless told otherwise: two clusters on a machine would collide.
    parameters = functools.partial(parameter.RayParams, dashboard_agent_listen_port=0)
    for attempt in range(3):
        dashboard_port = free_port()  # the one of a failed attempt may still be held
        try:
            with mock.patch.object(parameter, "RayParams", parameters):
                context = ray.init(
                    address="local",
                    namespace="headrace",
                    num_cpus=8,
                    object_store_memory=256 * 1024 * 1024,
                    include_dashboard=True,
                    dashboard_host="127.0.0.1",
                    dashboard_port=dashboard_port,
                    _temp_dir=folder,
                    _node_ip_address="127.0.0.1",
                    log_to_driver=False,
                    logging_level="WARNING",
                )
        except Exception as error:
            ray.shutdown()
            if attempt == 2 or not any(words in str(error) for words in _TOO_SLOW):
                raise
        else:
            return str(context.address_info["gcs_address"]), dashboard_port
    raise AssertionError("unreachable: the last attempt returns or raises")


def _is_rays(process: psutil.Process) -> bool:
    """Only what the fixture started: a test's broker, say, is a child too, and others end it."""
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "ray" in line and "java" not in line


def _end(processes: list[psutil.Process]) -> None:
    alive = alive_after(processes, timeout_s=10)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    alive_after(alive, timeout_s=10)
