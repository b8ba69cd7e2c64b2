"""Ray nodes of one machine, each in a network namespace of its own with an address of its own: as root, on Linux."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from headrace.local.ray.head import SERVE_ENVIRONMENT
from tests.support.waiting import until

STARTS_S = 240.0
RAY_TRIES, STARTED = 8, b"Ray runtime started"
OBJECT_STORE_BYTES = 200_000_000
# Each machine has all ports to itself. Ray waits 15 s for an agent to say which port it took, too short on a busy machine; where
# it was told, it does not wait.
AGENTS = (
    *("--dashboard-agent-listen-port=52365", "--dashboard-agent-grpc-port=52366"),
    *("--runtime-env-agent-port=52367", "--metrics-export-port=52368"),
)
# As a container's kubelet or systemd starts again what has ended; a second, so that what can't start burns no CPU.
KEEPS = 'while :; do "$@"; sleep 1; done'


def why_none() -> str:
    """Why this process can't make namespaces and join them; empty where it can. Tries it, and leaves nothing behind."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "network namespaces need Linux, and the command `ip`"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"hr{secrets.token_hex(3)}"
    try:
        _ip("netns", "add", name)
        _ip("link", "add", name, "type", "bridge")
        _ip("netns", "exec", name, "true")
    except subprocess.CalledProcessError as error:
        return f"network namespaces can't be made (CAP_SYS_ADMIN, CAP_NET_ADMIN): {error.stderr.strip()}"
    finally:
        for words in (("link", "del", name), ("netns", "del", name)):
            subprocess.run(["ip", *words], check=False, capture_output=True)
    return ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class NetNode:
    """One machine: `namespace` has `address`, and nothing else of this machine's network; Ray's folder is its own too, where Ray
    looks which of its nodes is this one."""

    namespace: str
    address: str
    plug: str
    environment: dict[str, str]
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def disk(self) -> Path:
        """What Ray has on this machine."""
        return self.folder / "machines" / self.namespace

    def command(self, *words: str) -> list[str]:
        """The words, run there. `ip netns exec` gives them mounts of their own."""
        own, rays = self.disk, self.folder / "r"
        own.mkdir(parents=True, exist_ok=True)
        bound = ("sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh", str(own), str(rays))
        return ["ip", "netns", "exec", self.namespace, *bound, *words]

    def spawn(self, *words: str, log: str, **variables: str) -> subprocess.Popen[bytes]:
        """Starts something there; what it says is in the file `log` of the run's folder."""
        with (self.folder / log).open("ab") as told:
            process = subprocess.Popen(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                cwd=self.folder,
                env={**self.environment, **variables},
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def run(self, *words: str, timeout_s: float = STARTS_S, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of ours there to its end."""
        program = str(Path(sys.executable).with_name("headrace"))
        environment = {**self.environment, **variables}
        return subprocess.run(
            self.command(program, *words),
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start_ray(self, *words: str, keep: bool = False, **variables: str) -> None:
        """Starts a node of Ray there; returns once it runs. Ray gives one 30 s to start, which a busy machine may exceed.

        `keep`: one that ends is started again, until the machine is killed.
        """
        ray = (sys.executable, "-m", "deployments.serving.worker_setup", "ray.scripts.scripts", "start", "--block")
        usual = (
            *("--disable-usage-stats", f"--node-ip-address={self.address}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
            *("--min-worker-port=0", "--max-worker-port=0", "--include-log-monitor=false"),
            *AGENTS,
        )
        kept = ("sh", "-c", KEEPS, "sh") if keep else ()
        told = self.folder / f"{self.namespace}.log"
        for tries_left in reversed(range(RAY_TRIES)):
            begun = told.stat().st_size if told.exists() else 0
            process = self.spawn(*kept, *ray, *usual, *words, log=told.name, **variables)
            until(lambda: STARTED in told.read_bytes()[begun:] or process.poll() is not None, STARTS_S)  # noqa: B023 (called at once)
            if process.poll() is None:
                return
            self.processes.remove(process)
            assert tries_left, told.read_text(encoding="utf-8")[-2000:]

    def plug_in(self) -> None:
        """Its cable is back."""
        _ip("link", "set", self.plug, "up")

    def unplug(self) -> None:
        """Nothing comes in or goes out any more, and nobody is told."""
        _ip("link", "set", self.plug, "down")

    def named(self, what: str) -> set[int]:
        """The processes there whose names begin so."""
        found = set()
        for process in self.pids():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().startswith(what):
                    found.add(process.pid)
        return found

    def wipe(self) -> None:
        """Ray finds nothing of an earlier Ray, as on a Pod's disk."""
        for each in self.disk.iterdir():
            if each.is_symlink() or not each.is_dir():
                each.unlink()
            else:
                shutil.rmtree(each)

    def kill(self) -> None:
        """As a machine that loses its power: all its processes at once, whoever started them. Safe to repeat."""
        for _ in range(3):
            told = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False).stdout
            for pid in told.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for process in self.processes:
            process.wait(30)
        self.processes.clear()

    def pids(self) -> list[psutil.Process]:
        """What runs there."""
        told = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True).stdout
        found = []
        for pid in told.split():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found


@dataclass
class Network:
    """A bridge that nodes are plugged into; this machine is `gateway` on it."""

    name: str
    gateway: str
    folder: Path
    environment: dict[str, str]
    nodes: list[NetNode] = field(default_factory=list)

    def node(self) -> NetNode:
        """Another machine."""
        number = len(self.nodes) + 1
        space, address = f"{self.name}n{number}", f"{self.gateway.rpartition('.')[0]}.{10 + number}"
        outer, inner = f"{self.name}o{number}", f"{self.name}i{number}"
        made = NetNode(space, address, outer, dict(self.environment), self.folder)
        _ip("netns", "add", space)
        self.nodes.append(made)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        _ip("link", "set", inner, "netns", space)
        _ip("link", "set", outer, "master", self.name, "up")
        for words in (("addr", "add", f"{address}/24", "dev", inner), ("link", "set", inner, "up"), ("link", "set", "lo", "up")):
            _ip("-n", space, *words)
        _ip("-n", space, "route", "add", "default", "via", self.gateway)
        return made

    def kill(self) -> None:
        """All machines. Safe to repeat."""
        for node in self.nodes:
            node.kill()


@contextlib.contextmanager
def network(store_url: str, **variables: str) -> Iterator[Network]:
    """A network without machines yet; all that is made of it goes in the end. `variables` are set on each machine."""
    name = f"hr{secrets.token_hex(2)}"
    third, fourth = 200 + secrets.randbelow(50), secrets.randbelow(250)
    folder = Path(tempfile.mkdtemp(prefix="hn-"))
    (folder / "r").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HEADRACE_", "KAFKA_"))},
        **SERVE_ENVIRONMENT,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HEADRACE_HOME": str(folder / "home"),
        "HEADRACE_STORE_URL": store_url,
        "HEADRACE_ARTIFACT_CACHE": str(folder / "cache"),
        **variables,
    }
    found = Network(name, f"10.{third}.{fourth}.1", folder, environment)
    _ip("link", "add", name, "type", "bridge")
    try:
        _ip("addr", "add", f"{found.gateway}/24", "dev", name)
        _ip("link", "set", name, "up")
        yield found
    finally:
        with contextlib.ExitStack() as last_first:  # each, whatever becomes of another
            last_first.callback(shutil.rmtree, folder, ignore_errors=True)
            last_first.callback(_ip, "link", "del", name)
            for node in found.nodes:
                last_first.callback(_ip, "netns", "del", node.namespace)
            last_first.callback(found.kill)


def await_nodes(head: NetNode, many: int, limit_s: float = STARTS_S) -> None:
    """Returns once the doctor, asked on the head, counts so many nodes that answer."""

    def enough() -> bool:
        told = head.run("doctor", "--json", RAY_ADDRESS=f"{head.address}:6379").stdout
        members = json.loads(told)["seen"]["members"] if told.startswith("{") else []
        return sum(member["machine"] is not None and bool(member["id"]) for member in members) >= many

    until(enough, limit_s, every_s=1.0)
