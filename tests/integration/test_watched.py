"""`headrace up --prometheus` under load: panels are answered, and a broken candidate reaches a webhook."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import httpx
import pytest

from headrace.client import ControlClient
from headrace.local.home_key import home_key
from ops.boards.boards import BOARDS, ONE_MODEL
from tests.support.live import Service
from tests.support.machine import Machine
from tests.support.models import INPUT, failing_artifact, mlp_artifact, rows
from tests.support.promtool import needed
from tests.support.waiting import until

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]
MODEL = "watched"
PLAN = {
    "steps": [{"weight": 30, "bake_s": 0.5}, {"weight": 100, "bake_s": 0.5}],
    "checks": {"error_rate": {"margin": 0.02}},
    "keep_warm_s": 0,
}
SERVING = {"resources": {"cpus": 0.1}, "scaling": {"min": 1, "max": 1}}


@contextmanager
def webhook() -> Iterator[tuple[str, list[str]]]:
    """Its URL, and the names of the alerts that it has been told of, as they come."""
    told: list[str] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.extend(alert["labels"]["alertname"] for alert in body["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", told
        finally:
            server.shutdown()
            thread.join()


OF_ONE_MODEL = {"Rows", "Time of a request, p99", "Replicas"}


@contextmanager
def called(url: str) -> Iterator[None]:
    """Somebody calls the model meanwhile, and always gets an answer."""
    stop, refused = threading.Event(), list[str]()

    def calls() -> None:
        image = rows(1, seed=7)
        image[0, 0] = 1.0  # on which the broken candidate fails
        tensor = {"name": INPUT, "shape": [1, 784], "datatype": "FP32", "data": image.ravel().tolist()}
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            for number in count():
                if stop.is_set():
                    return
                answer = client.post(
                    f"/v2/models/{MODEL}/infer", json={"inputs": [tensor], "parameters": {"routing_key": str(number)}}
                )
                if answer.status_code != 200:
                    refused.append(answer.text)

    thread = threading.Thread(target=calls)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert refused == []


def asked(prometheus: str, query: str) -> list[object]:
    """What the server answers; a query that it can't take fails the test."""
    text = re.sub(r"\$(model|stream|batch)\b", ".*", query).replace("$__rate_interval", "1m")
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": text}, timeout=30, trust_env=False).json()
    assert answer["status"] == "success", (text, answer)
    return list(answer["data"]["result"])


def test_what_is_watched_is_seen_and_told(machine: Machine, tmp_path: Path) -> None:
    promtool = needed("promtool")
    needed("prometheus-alertmanager")
    folder = machine.home.root / "prometheus"
    folder.mkdir(parents=True)
    with webhook() as (hook, told):
        settings = {
            # Each alert by itself: what joins a group that was told of waits for minutes, and a first use is told of before.
            "route": {"receiver": "hook", "group_wait": "1s", "group_by": ["alertname"]},
            "receivers": [{"name": "hook", "webhook_configs": [{"url": hook}]}],
        }
        (folder / "alertmanager.yml").write_text(json.dumps(settings), encoding="utf-8")
        addresses = machine.answer("up", "--prometheus", *machine.ports)["addresses"]
        assert machine.answer("status")["addresses"] == addresses
        prometheus, url = addresses["prometheus"], addresses["http"]
        with ControlClient(url, timeout_s=60.0, token=home_key(machine.home)) as control:
            service = Service(MODEL, url, control)
            service.register(mlp_artifact(tmp_path, MODEL))
            service.apply(SERVING, PLAN)
            assert service.ended(1).state == "promoted"
            with called(url):
                assert service.ended(service.register(failing_artifact(tmp_path, MODEL))).state == "rolled_back"
                until(lambda: "HeadraceRolledBack" in told, limit_s=60)
                # A rate takes two scrapes.
                until(lambda: {p.title for p in ONE_MODEL.panels if asked(prometheus, p.query)} >= OF_ONE_MODEL, limit_s=120)
                shown = {(b.uid, p.title) for b in BOARDS for p in b.panels if asked(prometheus, p.query)}
        assert {("headrace-service", "Requests"), ("headrace-node", "Gateways"), ("headrace-rollouts", "State")} <= shown
        page = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text
        done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        run = [one for one in machine.state().processes if one.role in ("prometheus", "alertmanager")]
        assert len(run) == 2
        assert machine.run("down").returncode == 0
        assert [one for one in run if one.find() is not None] == []
