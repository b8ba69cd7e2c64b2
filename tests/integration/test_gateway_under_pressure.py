"""The gateway behind HAProxy while its model stands still: full, left by its callers, and stopped with requests under way."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import orjson
import psutil
import pytest
from ray import serve

from deployments.gateway.deployment import APP, GatewaySettings
from headrace.local.home import read_settings
from tests.conftest import RayCluster
from tests.support.live import Service, running
from tests.support.models import INPUT, mlp_artifact, rows
from tests.support.waiting import until

MODEL = "pressed"
ROOM = 8  # requests that the gateway takes: twice its `max_ongoing`
PATH = f"/v2/models/{MODEL}/infer"
BODY = orjson.dumps(
    {"inputs": [{"name": INPUT, "shape": [1, 784], "datatype": "FP32", "data": rows(1, seed=7).ravel().tolist()}]}
)
LIMIT_S = 120.0
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def service(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("pressed")
    home = read_settings({"HEADRACE_HOME": str(folder / "home")})
    with running(ray_cluster, home, MODEL, GatewaySettings(max_ongoing=ROOM // 2)) as service:
        serving = {"resources": {"cpus": 0.1}, "scaling": {"mode": "manual", "replicas": 1}, "timeout_s": 600}
        service.apply(serving, {})
        service.register(mlp_artifact(folder, MODEL))
        assert service.ended(1).state == "promoted"
        until(lambda: ask(service).status_code == 200, LIMIT_S)
        yield service


def ask(service: Service, timeout_ms: int = 60_000) -> httpx.Response:
    headers = {"x-timeout-ms": str(timeout_ms)}
    return httpx.post(service.url + PATH, content=BODY, headers=headers, timeout=LIMIT_S, trust_env=False)


@contextmanager
def standing_still(cluster: RayCluster) -> Iterator[None]:
    """The model's replica answers nothing meanwhile."""
    (pid,) = cluster.replica_pids(f"{MODEL}--v1")
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, LIMIT_S)  # the signal takes a moment
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def parked(service: Service, stack: ExitStack) -> list[socket.socket]:
    """As many callers as the gateway has room for, all of them inside: the next is refused."""
    host, port = service.url.removeprefix("http://").split(":")
    head = b"POST %s HTTP/1.1\r\nhost: tests\r\ncontent-length: %d\r\n\r\n" % (PATH.encode(), len(BODY))
    callers = []
    for _ in range(ROOM):
        callers.append(stack.enter_context(socket.create_connection((host, int(port)), timeout=LIMIT_S)))
        callers[-1].sendall(head + BODY)
    until(lambda: is_full(service), LIMIT_S)
    return callers


def is_full(service: Service) -> bool:
    """Whether one who would wait a little is refused for want of room; he is told when to come again either way."""
    answer = ask(service, timeout_ms=50)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
    return "too many requests are under way" in answer.json()["error"]


def test_who_finds_no_room_or_no_time_is_told_when_to_come_again_and_who_hangs_up_leaves_his_place(
    service: Service, ray_cluster: RayCluster
) -> None:
    with standing_still(ray_cluster):
        assert not is_full(service)
        with ExitStack() as stack:
            parked(service, stack)
        until(lambda: not is_full(service), LIMIT_S)  # the model still stands: nothing but their leaving made room
    assert ask(service).status_code == 200


def test_a_gateway_that_is_stopped_answers_what_it_has_taken(service: Service, ray_cluster: RayCluster) -> None:
    with ExitStack() as stack:
        with standing_still(ray_cluster):
            callers = parked(service, stack)
            serve.delete(APP, _blocking=False)
            until(lambda: not ray_cluster.replica_pids(APP), LIMIT_S)  # no longer RUNNING: it drains
        for caller in callers:
            assert caller.recv(4096).startswith(b"HTTP/1.1 200 ")
