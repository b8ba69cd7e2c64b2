"""The online path under calls for minutes: neither memory nor file descriptors grow, and no request fails."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
import ray

from deployments.gateway.door.found import keeper_of
from headrace.local.home import read_settings
from tests.conftest import RayCluster
from tests.support.live import Service, running
from tests.support.models import INPUT, mlp_artifact, rows

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]
MODEL = "online-soak"
LENGTH_S = float(os.environ.get("HEADRACE_SOAK_S", "240"))
PEAK_S = min(15.0, LENGTH_S / 4)
SHARE = 0.7  # of what it can do
CALLS_AT_LEAST = 10_000
HUNG_UP_AT_LEAST = CALLS_AT_LEAST // 250
CALLERS = 8
CALLS_A_CONNECTION = 200  # then a new one, and one that hangs up before its answer
LOOKS = 20
# Of each process, the most of the second half over the most of the first. One descriptor a connection would be hundreds.
GROWTH_BYTES = 16 * 2**20
GROWTH_FDS = 16
SERVING: dict[str, Any] = {"resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}


@dataclass
class Callers:
    """Callers at a rate that may be set, calls/s of them all; None: as fast as they can."""

    address: str
    rate: float | None = None
    calls: int = 0
    hung_up: int = 0
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self) -> None:
        """One caller, until all are told to stop."""
        tensor = {"name": INPUT, "shape": [1, 784], "datatype": "FP32", "data": rows(1, seed=7).ravel().tolist()}
        body, path = orjson.dumps({"inputs": [tensor]}), f"/v2/models/{MODEL}/infer"
        due_s = time.monotonic()
        while not self.stop.is_set():
            connection = http.client.HTTPConnection(self.address, timeout=60)
            try:
                for _ in range(CALLS_A_CONNECTION):
                    if self.stop.is_set():
                        break
                    if self.rate is not None:
                        due_s = max(due_s + CALLERS / self.rate, time.monotonic() - 1)
                        self.stop.wait(max(0.0, due_s - time.monotonic()))
                    connection.request("POST", path, body)
                    answer = connection.getresponse()
                    told = answer.read()
                    self._count(None if answer.status == 200 else f"{answer.status} {told[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                self._count(repr(error))
            finally:
                connection.close()
            self._hang_up(path, body)

    def _count(self, failure: str | None) -> None:
        with self._lock:
            self.calls += 1
            if failure is not None:
                self.failures.append(failure)

    def _hang_up(self, path: str, body: bytes) -> None:
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as leaving:
            leaving.sendall(b"POST %s HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n" % (path.encode(), len(body)) + body)
        with self._lock:
            self.hung_up += 1


@pytest.fixture
def service(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("online-soak")
    with running(ray_cluster, read_settings({"HEADRACE_HOME": str(folder / "home")}), MODEL) as service:
        service.register(mlp_artifact(folder, MODEL))
        service.apply(SERVING, {})
        assert service.ended(1).state == "promoted"
        yield service


def held() -> dict[str, tuple[int, int]]:
    """By process of the service: the bytes that are its alone, and its file descriptors."""
    found = {}
    keeper = psutil.Process(keeper_of(ray.get_runtime_context().get_node_id()))
    for process in (*psutil.Process().children(recursive=True), *keeper.children()):
        try:
            name = Path(process.cmdline()[0]).name.partition(".")[0]  # an actor appends the method it runs
            if name.startswith("ray::") or "haproxy" in name:
                found[f"{name} {process.pid}"] = (process.memory_full_info().uss, process.num_fds())
        except (psutil.Error, IndexError):  # it has ended meanwhile
            continue
    return found


def test_minutes_of_calls_leak_no_memory_and_no_descriptors(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    callers = Callers(service.url.removeprefix("http://"))
    threads = [threading.Thread(target=callers.work, name="caller") for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    pause, looks = threading.Event(), list[dict[str, tuple[int, int]]]()
    try:
        pause.wait(PEAK_S / 3)  # connections, buffers and batches find their size
        before = callers.calls
        pause.wait(PEAK_S)
        peak = (callers.calls - before) / PEAK_S
        callers.rate = SHARE * peak
        begin_s, before = time.monotonic(), callers.calls
        for look in range(1, LOOKS + 1):
            pause.wait(max(0.0, begin_s + look * LENGTH_S / LOOKS - time.monotonic()))
            looks.append(held())
        rate = (callers.calls - before) / (time.monotonic() - begin_s)
    finally:
        callers.stop.set()
        for thread in threads:
            thread.join()
    stayed = sorted(set[str].intersection(*(set(look) for look in looks)))
    with capsys.disabled():
        load = f"{rate:.0f}/s, {rate / peak:.0%} of {peak:.0f}/s"
        print(f"\n  {LENGTH_S:.0f} s at {load}; {callers.calls} calls, {callers.hung_up} hung up")  # noqa: T201
        for name in stayed:
            mib = " ".join(f"{look[name][0] / 2**20:.0f}" for look in looks)
            print(f"  {name}: MiB {mib}; descriptors {' '.join(str(look[name][1]) for look in looks)}")  # noqa: T201
    assert callers.failures == []
    assert callers.calls >= CALLS_AT_LEAST
    assert callers.hung_up >= HUNG_UP_AT_LEAST
    assert any("gateway" in name for name in stayed)
    assert any(MODEL in name for name in stayed)
    assert any("haproxy" in name for name in stayed)
    for name in stayed:
        memory, descriptors = ([look[name][part] for look in looks] for part in (0, 1))
        assert max(memory[LOOKS // 2 :]) - max(memory[: LOOKS // 2]) < GROWTH_BYTES, name
        assert max(descriptors[LOOKS // 2 :]) - max(descriptors[: LOOKS // 2]) <= GROWTH_FDS, name
