"""A Ray of our own on this machine: one head node that listens on loopback only, with ports and a folder of its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import Conflict, Unreachable
from deployments.gateway.door.settings import RUN_VARIABLE
from headrace.local.home import Home
from headrace.local.ports import free_port

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 180.0
OBJECT_STORE_BYTES = 512 * 1024 * 1024
LOG_TAIL_BYTES = 2000
# Socket paths end at 107 bytes, and Ray adds about 80 to its folder.
TEMP_ROOT_CHARS = 12

# Read by every process of Serve, and by those that call it: handles call over gRPC, and replicas have one event loop each.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # That would tie a handle to the event loop that first used it, and scorers come and go with theirs.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
    # And it would give each replica an HTTP server, and a while in which one that stops waits for HAProxy to know.
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    # Serve's gRPC takes 4 MiB unless told; a call may hold any batch that a model's `max_batch_rows` allows.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
}

# Whoever reaches Ray's ports may run code as this user. Ray listens on every interface unless told that the cluster
# will never have a second node; the variable's name is older than its use on Linux.
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # `down` has drained; Ray would wait up to 30 s for workers that wait for it
    "RAY_USAGE_STATS_ENABLED": "0",
    **SERVE_ENVIRONMENT,
}


def temp_dir(home: Home) -> Path:
    """The folder for this home's sockets and logs of Ray: short, and another one for each home."""
    default = Path(tempfile.gettempdir())
    root = default if len(str(default)) <= TEMP_ROOT_CHARS else Path("/tmp")  # noqa: S108 (made with mode 700, owner checked)
    return root / f"headrace-{hashlib.sha256(str(home.root).encode()).hexdigest()[:8]}"


def prepare_temp_dir(home: Home) -> Path:
    """Makes the folder, empty. Raises Conflict where somebody else has made one of that name."""
    folder = temp_dir(home)
    with contextlib.suppress(FileNotFoundError):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise Conflict("this folder belongs to somebody else", where=str(folder), remedy="remove it, or set TMPDIR")
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    return folder


def ray_folder(folder: Path) -> Path:
    """Where in it Ray works. Ray opens its own folder to every user, so it must not be the outermost."""
    return folder / "r"


def spawn_ray(
    home: Home,
    folder: Path,
    *,
    run_id: str,
    dashboard_port: int,
    num_cpus: int | None,
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Starts the head's supervisor, which ends all of Ray when it ends. Does not wait. All its processes see `environment`."""
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--node-ip-address={LOOPBACK}", "--port=0", f"--ray-client-server-port={free_port()}"),
        *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
        *(f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard_port}", "--include-log-monitor=false"),
        *(f"--temp-dir={ray_folder(folder)}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
    ]
    if num_cpus is not None:
        command.append(f"--num-cpus={num_cpus}")
    with (home.logs / "ray.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home.root,
            env={**os.environ, **ray_environment(os.environ), **environment, RUN_VARIABLE: run_id},
            start_new_session=True,  # Ctrl-C at the terminal is for the command line, not for Ray
        )


def await_ray(home: Home, folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Returns its address, for `ray.init`, once the head takes work. Raises Unreachable where it ends or is not up in time."""
    noted = ray_folder(folder) / "ray_current_cluster"
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (noted.exists() and noted.stat().st_size):
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            log = home.logs / "ray.log"
            what = f"Ray ended with status {process.returncode}" if ended else f"Ray was not up within {START_TIMEOUT_S:.0f} s"
            tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
            raise Unreachable(f"{what}:\n{tail}\n", where=str(log), remedy="read the log")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    return noted.read_text(encoding="utf-8").strip()


def ray_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Ray's variables for a local cluster; what the user has set stays."""
    return {name: environment.get(name, value) for name, value in RAY_ENVIRONMENT.items()}
