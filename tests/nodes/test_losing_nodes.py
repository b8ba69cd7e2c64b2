"""A cluster of several machines that loses them: one that leaves, one that is killed, and the head. `make nodes`, as root.

Each test prints how long it took until all was there again.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import sqlalchemy as sa

from cluster.commands.documents import Apply, ModelDocument
from cluster.commands.versions import RegisterVersion
from deployments.engines.load import load_engine
from headrace.client import ControlClient
from headrace.local.home import Home
from headrace.local.home_key import home_key
from tests.support.models import INPUT, OUTPUT, mlp_artifact, rows
from tests.support.net_nodes import STARTS_S, NetNode, Network, await_nodes, can_make, network
from tests.support.waiting import until

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not can_make(), reason="network namespaces need root, and the command `ip`"),
]
HTTP, MODEL = 8000, "digits"
WORKER = ("--num-cpus=2", '--resources={"headrace_gateway": 1}')
AWAY = (httpx.HTTPError,)


@dataclass
class Service:
    """A service on three machines: the head, which scores nothing, and workers that each may have a gateway."""

    network: Network
    head: NetNode
    workers: list[NetNode]
    image: np.ndarray
    want: np.ndarray

    def body(self) -> dict[str, object]:
        return {
            "inputs": [{"name": INPUT, "shape": list(self.image.shape), "datatype": "FP32", "data": self.image.ravel().tolist()}]
        }

    def ask(self, node: NetNode, client: httpx.Client) -> None:
        """One call at that node's door, whose answer must be right. Raises httpx.HTTPError."""
        answer = client.post(f"http://{node.address}:{HTTP}/v2/models/{MODEL}/infer", json=self.body()).raise_for_status()
        np.testing.assert_allclose(np.reshape(answer.json()["outputs"][0]["data"], self.want.shape), self.want, atol=1e-5)

    def answers(self, node: NetNode) -> bool:
        with httpx.Client(timeout=5, trust_env=False) as client:
            self.ask(node, client)
        return True

    def join(self, node: NetNode) -> None:
        node.start_ray(f"--address={self.head.address}:6379", *WORKER)

    def start_head(self) -> None:
        self.head.start_ray(
            "--head", "--port=6379", "--num-cpus=0", "--dashboard-host=127.0.0.1", f"--temp-dir={self.network.folder}/r"
        )


@dataclass
class Callers:
    """Calls at the doors of `nodes`, one after the other, as by a Service; `failed` are the first words of those that failed."""

    service: Service
    nodes: list[NetNode]
    calls: int = 0
    failed: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Callers:
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not self.stop.wait(0.05):
                nodes = list(self.nodes)
                try:
                    self.service.ask(nodes[number % len(nodes)], client)
                except httpx.HTTPError as error:
                    self.failed.append(f"{nodes[number % len(nodes)].address}: {error!r}"[:300])
                self.calls += 1
                number += 1

    def await_more(self, more: int) -> None:
        wanted = self.calls + more
        until(lambda: self.calls >= wanted, STARTS_S)


def tell(line: str) -> None:
    """For who watches: what was measured."""
    sys.stdout.write(f"\n{line}\n")


def empty(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()


@pytest.fixture(scope="module")
def service(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("artifact")
    uri, digest, manifest = mlp_artifact(folder, model=MODEL)
    image = rows(8)
    want = load_engine(Path(uri)).score({INPUT: image})[OUTPUT]
    empty(postgres_server)
    with network(postgres_server) as net:
        made = Service(net, net.node(), [net.node(), net.node()], image, want)
        made.start_head()
        program = str(Path(sys.executable).with_name("headrace"))
        made.head.spawn(
            program,
            *("up", "--join", "--host=0.0.0.0", "--insecure", "--gateways=2", "--gateways-on=headrace_gateway"),
            log="join.log",
            RAY_ADDRESS=f"{made.head.address}:6379",
            HEADRACE_URL=f"http://{made.workers[1].address}:{HTTP}",
        )
        for node in made.workers:
            made.join(node)
        await_nodes(made.head, 3)
        url = f"http://{made.workers[1].address}:{HTTP}"  # a node that stays, in place of a Service
        until(lambda: httpx.get(f"{url}/v2/health/live", trust_env=False).is_success, STARTS_S, every_s=0.5, trouble=AWAY)
        until(lambda: (net.folder / "home" / "key").exists(), STARTS_S)
        with ControlClient(url, timeout_s=60, token=home_key(Home(net.folder / "home"))) as control:
            serving = {"resources": {"cpus": 0.5}, "scaling": {"mode": "manual", "replicas": 2}}
            document = {"name": MODEL, "serving": serving, "rollout": {}}
            about = {"engine": manifest.engine, "signature": manifest.signature}
            until(lambda: control.status() is not None, STARTS_S, every_s=0.5, trouble=(Exception,))
            control.apply(Apply(models=(ModelDocument.model_validate(document),)))
            control.register_version(RegisterVersion(model=MODEL, artifact_uri=uri, digest=digest, **about))
            for node in made.workers:
                until(lambda node=node: made.answers(node), STARTS_S, every_s=0.5, trouble=AWAY)
        yield made


def test_the_doctor_finds_a_cluster_that_can_carry_it(service: Service) -> None:
    told = service.head.run(
        "doctor", "--json", RAY_ADDRESS=f"{service.head.address}:6379", HEADRACE_URL=f"http://{service.workers[1].address}:{HTTP}"
    )
    found = json.loads(told.stdout)
    members = found["seen"]["members"]
    assert {member["address"] for member in members} >= {node.address for node in (service.head, *service.workers)}
    assert all(abs(member["clock"]["ahead_s"]) < 1 + member["clock"]["error_s"] for member in members)
    assert {why for member in members for why in member["machine"]["reaches"].values()} == {""}
    assert [
        problem for problem in found["problems"] if problem["check"] in ("versions", "variables", "ports", "shared paths")
    ] == []


def test_a_node_that_leaves_costs_no_call(service: Service) -> None:
    leaving, staying = service.workers
    fresh = service.network.node()
    service.join(fresh)
    await_nodes(service.head, 4)
    with Callers(service, [leaving, staying]) as callers:
        callers.await_more(20)
        callers.nodes.remove(leaving)  # as a Service does with a Pod that is told to end
        begun = time.monotonic()
        left = leaving.run("leave", "--within", "200", "--json", RAY_ADDRESS=f"{service.head.address}:6379")
        took_s = time.monotonic() - begun
        assert left.returncode == 0, left.stderr
        leaving.kill()
        until(lambda: service.answers(fresh), STARTS_S, every_s=0.2, trouble=AWAY)
        again_s = time.monotonic() - begun
        callers.nodes.append(fresh)
        callers.await_more(20)
    service.workers[:] = [fresh, staying]
    failed = f"{len(callers.failed)} of {callers.calls} calls failed"
    tell(f"a node left in {took_s:.1f} s, another gateway answers after {again_s:.1f} s: {failed}")
    assert callers.failed == []


def test_a_node_that_is_killed_costs_the_calls_under_way_there(service: Service) -> None:
    killed, staying = service.workers
    fresh = service.network.node()
    service.join(fresh)
    await_nodes(service.head, 4)
    with Callers(service, [staying]) as callers:
        callers.await_more(20)
        begun = time.monotonic()
        killed.kill()
        until(lambda: service.answers(fresh), STARTS_S, every_s=0.2, trouble=AWAY)
        again_s = time.monotonic() - begun
        callers.await_more(20)
    service.workers[:] = [fresh, staying]
    tell(f"a killed node is replaced after {again_s:.1f} s: {len(callers.failed)} of {callers.calls} calls elsewhere failed")
    assert len(callers.failed) <= 2, callers.failed  # one a caller: those that its replica had


def test_a_new_head_deploys_all_from_the_store_by_itself(service: Service) -> None:
    begun = time.monotonic()
    ray, joiner = service.head.processes
    for process in service.head.pids():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid != joiner.pid and "headrace" not in " ".join(process.cmdline()[:3]):
                process.kill()
    ray.wait(30)
    for node in service.workers:  # as KubeRay does with Pods whose Ray has ended
        node.kill()
    service.head.processes[:] = [joiner]
    service.start_head()
    for node in service.workers:
        service.join(node)
    for node in service.workers:
        until(lambda node=node: service.answers(node), 2 * STARTS_S, every_s=0.5, trouble=AWAY)
    tell(f"after the death of the head both doors answer again after {time.monotonic() - begun:.1f} s")
