"""A run whose door speaks TLS and wants certificates, under `up --supervise`: commands, callers, a job, a renewal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from deployments.gateway.door.haproxy import usable_haproxy
from headrace.client import ControlClient
from headrace.local.home import read_settings
from headrace.local.run_state import Phase, load_run
from tests.support.certificates import Pki
from tests.support.door_calls import Calls
from tests.support.live import Service
from tests.support.machine import LIMIT_S, Machine
from tests.support.models import INPUT, OUTPUT, mlp_artifact, rows
from tests.support.waiting import until

pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(900),
    pytest.mark.skipif(usable_haproxy() is None, reason="Ray brings no HAProxy here"),
]
MODEL = "digits"
X = rows(2, seed=7)
ACCESS = """
kind: Access
grants:
  - {to: {certificate: ann.example}, roles: [score], models: [digits]}
"""
JOB = """
import sys
import time
from headrace.local.home import read_settings
from headrace.local.ray.job import submit_command
submit_command(read_settings(), ["models", "--json"], job="over-tls")
from consumers.batch.ray_inside import OwnJobClient
from headrace.local.run_state import load_run
client = OwnJobClient(load_run(read_settings().home).addresses.dashboard)
while not (status := client.get_job_status("over-tls")).is_terminal():
    time.sleep(0.2)
sys.stdout.write(f"{status.value} {client.get_job_logs('over-tls')}")
"""


def tensor(module: Any) -> Any:
    made = module.InferInput(INPUT, list(X.shape), "FP32")
    made.set_data_from_numpy(X)
    return made


@contextmanager
def called(machine: Machine, pki: Pki, client: tuple[Path, Path]) -> Iterator[Calls]:
    """Real clients with certificates, at it all the time."""
    addresses, calls, stop = machine.state().addresses, Calls(LIMIT_S), threading.Event()
    context, files = pki.context(client), {"private_key": client[1], "certificate_chain": client[0], "root_certificates": pki.ca}
    http = str(addresses.http).removeprefix("https://")

    def by_http() -> None:
        with triton_http.InferenceServerClient(http, ssl=True, ssl_context_factory=lambda: context) as caller:
            ask_on(caller, triton_http)

    def by_grpc() -> None:
        with triton_grpc.InferenceServerClient(
            str(addresses.grpc), ssl=True, **{name: str(path) for name, path in files.items()}
        ) as caller:
            ask_on(caller, triton_grpc)

    def ask_on(caller: Any, module: Any) -> None:
        want = caller.infer(MODEL, [tensor(module)]).as_numpy(OUTPUT)
        while not stop.wait(0.02):
            try:
                same = np.array_equal(caller.infer(MODEL, [tensor(module)]).as_numpy(OUTPUT), want)
                calls.count(None if same else "another answer")
            except Exception as error:  # noqa: BLE001 (whatever it is, it is counted)
                calls.count(repr(error)[:200])

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(by_http), pool.submit(by_grpc)]
        try:
            yield calls
        finally:
            stop.set()
    for one in running:
        one.result()


def is_up(machine: Machine) -> bool:
    state = load_run(machine.home)
    return state is not None and state.phase is Phase.RUNNING and machine.run("status").returncode == 0


def certificate_ends(machine: Machine) -> datetime:
    (door,) = machine.answer("status")["doors"]
    return datetime.fromtimestamp(door["certificate_ends_s"], UTC)


def test_a_run_over_tls(machine: Machine, tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=5)
    certificate, key = pki.issue("door", ends=ends)
    client = pki.issue("client", "ann.example")
    files = ["--tls-cert", certificate, "--tls-key", key, "--client-ca", pki.ca, "--client-certs", "required"]
    access = tmp_path / "access.yaml"
    access.write_text(ACCESS)
    words = [*machine.ports, *(str(word) for word in files), "--access", str(access)]
    with machine.start("up", "--supervise", *words) as process:
        try:
            said = goes_well(machine, pki, client, ends, tmp_path, process)
        finally:
            process.kill()
    assert "TLS: WARNING: the certificate ends at" in said
    assert "gateway is away" not in said
    assert load_run(machine.home) is None


def goes_well(
    machine: Machine, pki: Pki, client: tuple[Path, Path], ends: datetime, folder: Path, process: subprocess.Popen[str]
) -> str:
    """All that it should; what the supervisor has said in the end."""
    until(lambda: is_up(machine), LIMIT_S)
    first = machine.state()
    assert str(first.addresses.http).startswith("https://127.0.0.1:")
    assert certificate_ends(machine) == ends
    settings = read_settings({"HEADRACE_HOME": str(machine.home.root)})
    with ControlClient.from_environment(settings) as control:
        service = Service(MODEL, control.base_url, control)
        service.apply({"resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}, {"steps": [{"weight": 100}]})
        service.register(mlp_artifact(folder / "artifact", MODEL))
        assert service.ended(1).state == "promoted"
    with pytest.raises(httpx.TransportError, match="CERTIFICATE_REQUIRED"):
        httpx.get(f"{first.addresses.http}/v2/health/live", verify=pki.context(), trust_env=False, timeout=30)

    with called(machine, pki, client) as calls:
        calls.await_answers(50)
        renewed = ends + timedelta(days=80)
        pki.issue("door", ends=renewed)
        until(lambda: certificate_ends(machine) == renewed, 60)
        calls.await_answers(50)
    assert calls.failed == Counter()

    # A job on the cluster calls the gateway too; `headrace batch` runs as one.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HEADRACE_", "KAFKA_"))}
    environment = {**clean, "HEADRACE_HOME": str(machine.home.root)}
    job = subprocess.run(
        [sys.executable, "-c", JOB], env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert job.stdout.startswith("SUCCEEDED"), job.stdout + job.stderr
    assert f'"{MODEL}"' in job.stdout

    # Nobody renews it in time: callers are refused by their own clients, and whoever looks after the run sees why.
    pki.expired("door")
    until(lambda: "the certificate ended at" in machine.answer("status")["doors"][0]["trouble"], 60)
    assert machine.run("up", *machine.ports).returncode == 0
    pki.issue("door", ends=renewed)
    until(lambda: machine.answer("status")["doors"][0]["trouble"] == "", 60)

    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    return said
