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
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import Conflict, Unreachable
from deployments.gateway.door.settings import RUN_VARIABLE
from deployments.keys.ring import VARIABLE as KEYS_VARIABLE
from deployments.serving.worker_setup import SETUP, SETUP_VARIABLE
from headrace.local.home import Home
from headrace.local.options import LOOPBACK
from headrace.local.ports import free_port
from headrace.local.ray.token import ensure_token, own_environment

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
    SETUP_VARIABLE: SETUP,
}

# Whoever reaches Ray's ports and has its token may run code as this user. Ray listens on every interface unless told that the
# cluster will never have a second node; the variable's name is older than its use on Linux.
RAY_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Each process's log is bounded so, that of a worker too; Ray's own bound is 3 GB a file.
    "RAY_ROTATION_MAX_BYTES": str(16 << 20),
    "RAY_ROTATION_BACKUP_COUNT": "1",
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


def ray_logs(home: Home) -> Path:
    """Where the processes of the home's own Ray write; Serve's replicas in its folder `serve`."""
    return ray_folder(temp_dir(home)) / "session_latest" / "logs"


def spawn_ray(
    home: Home,
    folder: Path,
    *,
    run_id: str,
    dashboard_port: int,
    num_cpus: int | None,
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Starts what starts the head, and then ends: each of Ray's processes lives alone. Does not wait. All see `environment`.

    Without Ray's monitor: it is for nodes that come and go by themselves, and would be 50 MB.
    Raises Conflict where the home's token is not this user's alone.
    """
    ensure_token(home.ray_token)
    set_up = "deployments.serving.worker_setup"
    command = [
        *(sys.executable, "-m", set_up, "ray.scripts.scripts", "start", "--head", "--disable-usage-stats"),
        *(f"--node-ip-address={LOOPBACK}", "--port=0", f"--ray-client-server-port={free_port()}", "--no-monitor"),
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
            # Not with what this user calls gateways with: models' code would have it.
            env={
                KEYS_VARIABLE: f"file:{home.keys}",
                **_without_none({**os.environ, "HEADRACE_TOKEN": None, **ray_environment(os.environ, home)}),
                **environment,
                RUN_VARIABLE: run_id,
            },
            start_new_session=True,  # Ctrl-C at the terminal is for the command line, not for Ray
        )


def await_ray(home: Home, folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Returns its address, for `ray.init`, once the head takes work. Raises Unreachable where it does not start in time."""
    log = home.logs / "ray.log"
    try:
        status = process.wait(START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise _not_started(f"Ray was not up within {START_TIMEOUT_S:.0f} s", log) from None
    if status != 0:
        raise _not_started(f"Ray did not start (status {status})", log)
    return (ray_folder(folder) / "ray_current_cluster").read_text(encoding="utf-8").strip()


def _not_started(what: str, log: Path) -> Unreachable:
    told = (
        log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip().splitlines()[-1:]
    )  # a traceback ends with its reason
    return Unreachable(": ".join((what, *told)), where=str(log), remedy="read the log")


def ray_environment(environment: Mapping[str, str], home: Home) -> dict[str, str | None]:
    """Ray's variables for a local cluster; what the user has set stays, but for the token. None: not to be set."""
    return {name: environment.get(name, value) for name, value in RAY_ENVIRONMENT.items()} | own_environment(home.ray_token)


def _without_none(variables: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if value is not None}
