"""Starts Prometheus and Alertmanager where they are installed: on loopback, on free ports, with their data in the home."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from cluster.errors import BadInput, Unreachable
from deployments.gateway.door.settings import RUN_VARIABLE
from headrace.local.home import Home
from headrace.local.options import LOOPBACK, UpOptions
from headrace.local.ports import free_port
from headrace.local.prometheus.settings import ALERTMANAGER, prometheus_settings
from headrace.local.run_state import RunState, StartedProcess, started

PROMETHEUS, ALERTS = "prometheus", "alertmanager"
# Debian's name of the second differs from its makers'.
PROGRAMS = {PROMETHEUS: ("prometheus",), ALERTS: ("prometheus-alertmanager", "alertmanager")}
READY_S, POLL_S = 60.0, 0.1
KEPT = "15d"
LOG_TAIL_BYTES = 1000


@dataclass(frozen=True, slots=True)
class _Program:
    """One of the two as it shall run. `port` is where it listens."""

    role: str
    words: Sequence[str]
    port: int


def check_prometheus(options: UpOptions) -> None:
    """Raises BadInput where `--prometheus` is asked for and can't be had."""
    if not options.prometheus:
        return
    if missing := [role for role in PROGRAMS if _path(role) is None]:
        raise BadInput(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            where="--prometheus",
            remedy="on Debian: sudo apt-get install --no-install-recommends prometheus prometheus-alertmanager; "
            "elsewhere put the programs of prometheus.io into your PATH",
        )
    if options.tls is not None:
        raise BadInput(
            "it would have to be told whom to trust at a door that speaks TLS",
            where="--prometheus --tls-cert",
            remedy="run a Prometheus of your own: docs/metrics.md has its settings, ops/prometheus the rules",
        )


def start_prometheus(home: Home, state: RunState, noted: Callable[[StartedProcess], None]) -> tuple[str, str]:
    """Starts both, and returns their URLs once they are ready; the door must be open. `noted` is told of each process at once.
    Raises Unreachable where one does not come up: what was noted is the caller's to end."""
    folder = home.root / PROMETHEUS
    folder.mkdir(mode=0o700, exist_ok=True)
    ours = folder / "alertmanager.yml"
    if not ours.exists():
        ours.write_text(ALERTMANAGER, encoding="utf-8")
    port, alerts_port = free_port(), free_port()
    door = httpx.URL(str(state.addresses.http))
    text = prometheus_settings(f"{door.host}:{door.port}", home.key, f"{LOOPBACK}:{alerts_port}")
    (folder / "prometheus.yml").write_text(text, encoding="utf-8")
    both = (
        _Program(
            ALERTS,
            (f"--config.file={ours}", f"--storage.path={folder / 'alerts'}", "--cluster.listen-address="),
            alerts_port,
        ),
        _Program(
            PROMETHEUS,
            (
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--storage.tsdb.retention.time={KEPT}",
            ),
            port,
        ),
    )
    running = [(one, _spawn(one, home, state.run_id, noted)) for one in both]
    for one, process in running:
        _await_ready(one, process, _log(home, one))
    return f"http://{LOOPBACK}:{port}", f"http://{LOOPBACK}:{alerts_port}"


def _path(role: str) -> str | None:
    return next((path for name in PROGRAMS[role] if (path := shutil.which(name))), None)


def _log(home: Home, one: _Program) -> Path:
    return home.logs / f"{one.role}.log"


def _spawn(one: _Program, home: Home, run_id: str, noted: Callable[[StartedProcess], None]) -> subprocess.Popen[bytes]:
    with _log(home, one).open("ab") as out:
        process = subprocess.Popen(
            [str(_path(one.role)), f"--web.listen-address={LOOPBACK}:{one.port}", *one.words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=home.root,
            env={**os.environ, RUN_VARIABLE: run_id},  # by which `down` finds it even if we are killed before it is noted
            start_new_session=True,
        )
    noted(started(one.role, process.pid))
    return process


def _await_ready(one: _Program, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not _ready(one.port):
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            what = f"ended with status {process.returncode}" if ended else f"was not ready within {READY_S:.0f} s"
            tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
            raise Unreachable(
                f"{one.role} {what}: {tail}", where=str(log), remedy="read the log; leave --prometheus out to do without"
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://{LOOPBACK}:{port}/-/ready", timeout=2.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
