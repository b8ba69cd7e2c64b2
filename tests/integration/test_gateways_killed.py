"""Two gateways on a node under load by HTTP and by gRPC: gateways, HAProxy and the keeper are killed, again and again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import httpx
import orjson
import psutil
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deployments.control.table_watch import PUSH_EVERY_S
from deployments.gateway.deployment import APP, GatewaySettings
from deployments.gateway.door.files import is_locked
from deployments.gateway.door.found import keeper_of
from deployments.gateway.door.haproxy_process import LASTED_S
from deployments.gateway.door.keeper import KEEPER_LOCK
from deployments.gateway.door.slots import folder_of, taken_slots
from headrace.local.home import read_settings
from headrace.local.ports import free_port
from tests.conftest import RayCluster
from tests.support.door_calls import AT_ONCE, Calls
from tests.support.live import Service, running
from tests.support.models import INPUT, mlp_artifact, rows
from tests.support.waiting import until

MODEL = "many-kills"
KILLS, CALLERS = 10, 4
ROWS = {"small": 1, "64 KiB": 20}  # 20 rows of 784 float32 are 62,720 bytes
LIMIT_S = 240.0
AWAY_AT_MOST_S = 1.0
pytestmark = [pytest.mark.proof, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Door:
    """The node's door, as its folder tells, and the gateways behind it."""

    service: Service
    grpc: str
    cluster: RayCluster

    @property
    def keeper(self) -> psutil.Process:
        """Its process."""
        return psutil.Process(keeper_of(ray.get_runtime_context().get_node_id()))

    def gateways(self, without: set[int]) -> set[int]:
        """Two gateways, as soon as there are; those that are up have a slot."""
        folder = folder_of(ray.get_runtime_context().get_node_id())
        until(lambda: len(self.cluster.replica_pids(APP) - without) == 2 == len(taken_slots(folder)), LIMIT_S)
        return self.cluster.replica_pids(APP) - without


@pytest.fixture(scope="module")
def door(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("kills")
    home, port = read_settings({"HEADRACE_HOME": str(folder / "home")}), free_port()
    with running(ray_cluster, home, MODEL, GatewaySettings(replicas=2, grpc_port=port)) as service:
        service.apply({"resources": {"cpus": 0.1}, "scaling": {"mode": "manual", "replicas": 1}, "timeout_s": 120}, {})
        service.register(mlp_artifact(folder, MODEL))
        assert service.ended(1).state == "promoted"
        until(lambda: httpx.get(f"{service.url}/v2/models/{MODEL}/ready", timeout=60).status_code == 200, LIMIT_S)
        yield Door(service, f"127.0.0.1:{port}", ray_cluster)


@contextmanager
def load(door: Door, count: int) -> Iterator[Calls]:
    """Callers by HTTP and by gRPC, as many each, at it all the time, `count` rows a call."""
    calls, stop, image = Calls(LIMIT_S), threading.Event(), rows(count, seed=7)
    tensor = {"name": INPUT, "shape": list(image.shape), "datatype": "FP32", "parameters": {"binary_data_size": image.nbytes}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    headers = {"Inference-Header-Content-Length": str(len(head))}
    body, path = head + image.tobytes(), f"/v2/models/{MODEL}/infer"
    message = service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[image.tobytes()])
    message.inputs.add(name=INPUT, datatype="FP32", shape=image.shape)

    def by_http() -> None:
        with httpx.Client(base_url=door.service.url, timeout=LIMIT_S, trust_env=False) as client:
            ask_on(lambda: client.post(path, content=body, headers=headers).raise_for_status())

    def by_grpc() -> None:
        options = [("grpc.enable_retries", 0), *AT_ONCE]
        with grpc.insecure_channel(door.grpc, options=options) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            ask_on(lambda: stub.ModelInfer(message, timeout=LIMIT_S, wait_for_ready=True))

    def ask_on(ask: Callable[[], object]) -> None:
        last_s = time.monotonic()
        while not stop.wait(0.005):
            try:
                ask()
            except (httpx.HTTPError, grpc.RpcError) as error:
                calls.count(repr(error)[:300])
            else:
                now_s = time.monotonic()
                calls.count(None, now_s - last_s)
                last_s = now_s

    with ThreadPoolExecutor(2 * CALLERS) as pool:
        asking = [pool.submit(by) for by in (by_http, by_grpc) for _ in range(CALLERS)]
        try:
            yield calls
        finally:
            stop.set()
    for one in asking:
        one.result()


@pytest.mark.parametrize("size", ROWS)
def test_ten_killed_gateways_cost_nobody_an_answer(door: Door, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    killed: set[int] = set()
    before, began_s = counted(door), time.monotonic()
    with load(door, ROWS[size]) as calls:
        for _ in range(KILLS):
            calls.await_answers(100)
            victim = min(door.gateways(killed))
            killed.add(victim)
            os.kill(victim, signal.SIGKILL)
            calls.await_answers(100)
        door.gateways(killed)
        calls.await_answers(100)
    with capsys.disabled():
        print(f"\n  {size}: {KILLS} kills, {calls.answered} answers, {calls.failed.total()} failed")  # noqa: T201
    assert calls.failed == Counter()
    # A killed gateway takes its last second of counts along; what it answered to HAProxy alone is asked, and counted, again.
    a_second = calls.answered / (time.monotonic() - began_s)
    until(lambda: _stands(door), LIMIT_S)
    assert -KILLS * (2 * a_second + 2 * CALLERS) <= counted(door) - before - calls.answered <= KILLS * 2 * CALLERS


def counted(door: Door) -> float:
    """Answered requests, as whichever gateway is asked tells."""
    page = httpx.get(f"{door.service.url}/metrics", timeout=60, trust_env=False).raise_for_status().text
    samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
    return sum(
        sample.value
        for sample in samples
        if sample.name == "headrace_requests_total" and sample.labels["model"] == MODEL and sample.labels["outcome"] == "ok"
    )


def _stands(door: Door) -> bool:
    """Whether all has been told: both gateways fetch the same sums, and none comes any more."""
    seen = set()
    for _ in range(6):
        seen.add(counted(door))
        time.sleep(PUSH_EVERY_S / 2)  # no condition shows that nothing more comes
    return len(seen) == 1


@pytest.mark.parametrize("victim", ["haproxy", "keeper"])
def test_a_killed_process_of_the_door_is_away_for_a_second_at_most(
    door: Door, victim: str, capsys: pytest.CaptureFixture[str]
) -> None:
    door.gateways(set())
    lock = folder_of(ray.get_runtime_context().get_node_id()) / KEEPER_LOCK
    with load(door, 1) as calls:
        for _ in range(KILLS):
            calls.await_answers(200)
            keeper = door.keeper
            (haproxy,) = keeper.children()
            until(lambda up=haproxy: time.time() - up.create_time() > 2 * LASTED_S, LIMIT_S)  # no loop of crashes
            process = haproxy if victim == "haproxy" else keeper
            os.kill(process.pid, signal.SIGKILL)
            until(
                lambda lock=lock, killed=haproxy: is_locked(lock) and door.keeper.children() not in ([], [killed]),
                LIMIT_S,
                trouble=(ValueError, psutil.Error),
            )
            calls.await_answers(200)
    with capsys.disabled():
        lost = calls.failed.total()
        print(f"\n  {victim}: {KILLS} kills, away for {calls.away_s:.2f} s, {lost} of {calls.answered + lost} calls failed")  # noqa: T201
    assert calls.away_s <= AWAY_AT_MOST_S
