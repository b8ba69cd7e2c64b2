"""`python -m bench.footprint [--quick] [--json]`: what `headrace up` and each model cost while nobody calls.

A home of its own with 0, 5 and 20 models of one replica each: processes, memory (PSS: what is shared counts once), processor time
at rest, threads, and how long `up` and `down` take, also until every model is ready. Beside them run as many bare replicas of
Serve as there are models, on the same Ray, each with one onnxruntime session on the same file: the reference of a replica.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from bench.batch_data import Case, write_model
from bench.figures import Figure, show
from bench.footprint_bare import APP
from bench.service import CLASSES, WIDTH, awaited
from cluster.commands.documents import Apply, ModelDocument
from cluster.commands.models import ModelView
from cluster.commands.versions import RegisterVersion
from headrace.client import ControlClient
from headrace.local.home import Home
from headrace.local.home_key import home_key
from headrace.local.ports import free_port
from headrace.local.processes import of_run
from headrace.local.ray.head import ray_environment
from headrace.local.run_state import load_run

HIDDEN = 32
SETTLES_S = 5.0
SERVING: dict[str, Any] = {"resources": {"cpus": 0.01}, "scaling": {"min": 1, "max": 1}}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one process, or of several together. `cpu` is the share of a core at rest."""

    processes: int
    pss_bytes: int
    rss_bytes: int
    threads: int
    cpu: float

    def each(self) -> str:
        """Of one of them, in words."""
        mib = 2**20 * self.processes
        return (
            f"{self.pss_bytes / mib:.0f} MiB PSS, {self.rss_bytes / mib:.0f} RSS, "
            f"{self.threads / self.processes:.0f} threads, {100 * self.cpu / self.processes:.2f} % of a core"
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """A home, and the command line on it."""

    home: Home
    ports: tuple[str, ...]
    url: str

    def run(self, *words: str) -> float:
        """How long the command takes, s. Raises SystemExit where it fails."""
        begun_s = time.monotonic()
        done = subprocess.run(
            [str(Path(sys.executable).with_name("headrace")), *words],
            env=own_environment() | {"HEADRACE_HOME": str(self.home.root)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"headrace {words[0]}: {done.stderr}")
        return time.monotonic() - begun_s

    def up(self) -> float:
        """Starts it; how long that takes, s."""
        return self.run("up", *self.ports)

    def processes(self) -> list[psutil.Process]:
        """All of it."""
        state = load_run(self.home)
        return of_run(state, self.home.root) if state is not None else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="0 and 3 models, and shorter looks: about three minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    counts, seconds = ((0, 3), 10.0) if options.quick else ((0, 5, 20), 30.0)
    screen, figures = Console(stderr=True), list[Figure]()
    with machine() as here:
        here.up()  # makes what later starts find: a store, compiled modules
        with_none_s = 0.0
        for count in counts:
            add_models(here, count)
            await_ready(here.url, count)
            down_s = here.run("down")
            up_s, begun_s = here.up(), time.monotonic()
            await_ready(here.url, count)
            ready_s = up_s + time.monotonic() - begun_s
            with_none_s = with_none_s or up_s
            screen.print(f"{count} models: down {down_s:.1f} s, up {up_s:.1f} s, all ready after {ready_s:.1f} s")
            figures.append(Figure(f"footprint.up.{count}", up_s, with_none_s, "s (lower is better)"))
            figures.append(Figure(f"footprint.ready.{count}", ready_s, with_none_s, "s (lower is better)"))
            figures += at_rest(here, count, seconds, screen)
    show(figures, as_json=options.json)


def at_rest(here: Machine, count: int, seconds: float, screen: Console) -> list[Figure]:
    """What all of it costs, then what a replica does beside a bare one."""
    time.sleep(SETTLES_S)
    whole = cost(here.processes(), seconds)
    screen.print(f"{count} models: {whole.processes} processes, {whole.pss_bytes / 2**20:.0f} MiB PSS, {whole.cpu:.2f} cores")
    if not count:
        return []
    with bare_replicas(here, count):
        time.sleep(SETTLES_S)
        ours, bare = (titled(here.processes(), f"ray::ServeReplica:{name}") for name in ("model-", f"{APP}:"))
        if (len(ours), len(bare)) != (count, count):
            raise SystemExit(f"{len(ours)} replicas and {len(bare)} bare ones: the figures would mean nothing")
        both = cost_of_each([ours, bare], seconds)
    screen.print(f"a replica: {both[0].each()}; a bare one: {both[1].each()}")
    replica, reference = both
    name = f"footprint.replica.{count}"
    return [
        Figure(f"{name}.pss", replica.pss_bytes / count / 2**20, reference.pss_bytes / count / 2**20, "MiB (lower is better)"),
        Figure(f"{name}.rss", replica.rss_bytes / count / 2**20, reference.rss_bytes / count / 2**20, "MiB (lower is better)"),
        Figure(f"{name}.threads", replica.threads / count, reference.threads / count, "threads (lower is better)"),
        Figure(f"{name}.cpu", 1000 * replica.cpu / count, 1000 * reference.cpu / count, "ms/s (lower is better)"),
    ]


def add_models(here: Machine, count: int) -> None:
    """Makes it so many, of one version each."""
    with ControlClient(here.url, timeout_s=60.0, token=home_key(here.home)) as control:
        for number in range(len(awaited(control.status).models), count):
            name = f"model-{number}"
            pinned = write_model(_case(), here.home.root.parent / name)
            control.apply(Apply(models=(ModelDocument.model_validate({"name": name, "serving": SERVING}),)))
            control.register_version(
                RegisterVersion(
                    model=name, artifact_uri=pinned.artifact_uri, digest=pinned.digest, engine="onnx", signature=pinned.signature
                )
            )


def await_ready(url: str, count: int) -> None:
    """Returns once so many models answer."""
    with ControlClient(url, timeout_s=60.0) as control:
        awaited(lambda: True if sum(_is_ready(model) for model in control.status().models) == count else None)


@contextmanager
def bare_replicas(here: Machine, count: int) -> Iterator[None]:
    """As many bare replicas on its Ray, which a process of their own has asked for, and takes back."""
    state = load_run(here.home)
    assert state is not None
    model = next(Path(here.home.root.parent / "model-0").rglob("*.onnx"))
    words = [sys.executable, "-m", "bench.footprint_bare", str(state.addresses.ray), str(count), str(model)]
    variables = ray_environment({}, here.home)
    environment = own_environment() | {name: value for name, value in variables.items() if value is not None}
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if not any(line == b"ready\n" for line in process.stdout):  # Ray says something before it, now and then
            raise SystemExit("the bare replicas were not to be had")
        yield
        process.communicate()


def titled(processes: Sequence[psutil.Process], title: str) -> list[psutil.Process]:
    """Those whose command line begins so."""
    found = []
    for process in processes:
        try:
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
        except psutil.NoSuchProcess:  # one of Ray's idle workers
            continue
    return found


def cost(processes: Sequence[psutil.Process], seconds: float) -> Cost:
    """What they cost together."""
    return cost_of_each([processes], seconds)[0]


def cost_of_each(groups: Sequence[Sequence[psutil.Process]], seconds: float) -> list[Cost]:
    """What each group costs, all looked at in the same seconds."""
    before = [{process: _cpu_s(process) for process in group} for group in groups]
    time.sleep(seconds)
    costs = []
    for group in before:
        lives = {process: used for process, used in group.items() if process.is_running()}
        memory = [process.memory_full_info() for process in lives]
        costs.append(
            Cost(
                processes=len(lives),
                pss_bytes=sum(one.pss for one in memory),
                rss_bytes=sum(one.rss for one in memory),
                threads=sum(process.num_threads() for process in lives),
                cpu=sum(_cpu_s(process) - used for process, used in lives.items()) / seconds,
            )
        )
    return costs


@contextmanager
def machine() -> Iterator[Machine]:
    """A home where nothing runs yet; in the end all of it is ended and removed."""
    folder = Path(tempfile.mkdtemp(prefix="hf-"))
    http = free_port()
    ports = ["--http-port", str(http), "--grpc-port", str(free_port()), "--dashboard-port", str(free_port())]
    here = Machine(Home(folder / "home"), tuple(ports), f"http://127.0.0.1:{http}")
    try:
        yield here
    finally:
        here.run("down")
        shutil.rmtree(folder, ignore_errors=True)


def own_environment() -> dict[str, str]:
    """What the command line is to see: nothing of this process's Ray or home."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HEADRACE_", "KAFKA_"))}


def _is_ready(model: ModelView) -> bool:
    stable = f"{model.name}--v{model.stable}"
    return any((app.app, app.status) == (stable, "ready") for app in model.apps)


def _case() -> Case:
    return Case("footprint", files=0, rows_a_file=0, width=WIDTH, layers=(HIDDEN, CLASSES))


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


if __name__ == "__main__":
    main()
