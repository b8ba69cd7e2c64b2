"""Serve's doors on this machine: HAProxy straight to the gateway's replicas, with files and ports of one home, on loopback."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from deployments.gateway.door.haproxy import usable_haproxy
from headrace.local.ports import free_port

# Read by every process of Serve, and by those that call it: HAProxy hands requests straight to the replica that serves them,
# which saves the calls between Serve's own proxy and the replica, and handles call over gRPC. Ray brings HAProxy on Linux alone.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1" if sys.platform == "linux" else "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # That would tie a handle to the event loop that first used it, and scorers come and go with theirs.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
    # Serve's gRPC takes 4 MiB unless told; a call may hold any batch that a model's `max_batch_rows` allows.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
    # How long a replica that stops goes on to take requests, until HAProxy knows, which takes a tenth of a second; where it takes
    # longer, HAProxy asks another. Versions wait as long, though nobody asks them by HTTP.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    # A request that HAProxy holds whole, it can send to another replica where the first dies. Ray's 16 KiB are 4 rows of 784.
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(64 << 10),
    # Else HAProxy writes a line for each request, which a Python process of Serve's reads: a fifth of what two cores can answer.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # The gateway's replicas take requests past Serve's own handling of them (docs/decisions/0016-direct-lane.md).
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.gateway.http.direct_lane.middlewares",
}

# The ports that replicas take lie below those that the kernel hands out, in a window for each folder: a proxy that outlived
# its Ray must never find a replica of somebody else where it knew one of its own.
FIRST_REPLICA_PORT, WINDOW_PORTS, WINDOWS = 20_000, 100, 120

# HAProxy as Ray starts it, `-db -f CONFIG ...`. Ray lets its statistics listen on every interface and everybody steer it.
#
# A request to the gateway that its replica closed without an answer, since it died, is sent to another: scoring twice changes
# nothing. Commands may not be sent twice. HAProxy can do so with what it holds whole, so bodies are buffered as far as they fit.
# The gateway takes every path: where none is, no backend takes it, or Serve's own proxy says 404 in plain text, which the gateway
# never does. Neither is the truth, which is: try again.
_LAUNCHER = r"""#!/bin/sh
if ! grep -q '^    option http-buffer-request$' "$3"; then
  sed -i -e '/^backend http-gateway$/a\    option http-buffer-request\n    retry-on conn-failure empty-response' \
    -e '/^backend http-gateway$/a\    http-request disable-l7-retry if { path_beg /control/ }' \
    -e '/^backend http-gateway$/a\    {no_gateway}' \
    -e '/^backend http-gateway$/a\    errorfile 502 {error}\n    errorfile 503 {error}\n    errorfile 504 {error}' "$3" || exit 1
fi
sed -i -e '/^frontend prometheus/,/^frontend http_frontend/ s/^\( *bind \):/\1127.0.0.1:/' \
  -e '/^listen stats/,$ s/^\( *bind \)\*:/\1127.0.0.1:/' -e 's/ mode 666 level admin/ mode 600 level admin/' \
  -e 's|^    http-request return status 404 .*|    errorfile 503 {error}\n    http-request deny deny_status 503|' "$3" || exit 1
exec '{binary}' "$@"
"""

# Of what comes from Serve's own proxy.
_NO_GATEWAY = "http-response deny deny_status 503 if { status 404 } { res.hdr(content-type) -m beg text/ }"
_ERROR = b'{"error": "gateway: no replica answers now (retry; one is started if the last has died)"}'
_NO_REPLICA = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_ERROR), _ERROR)
)


def haproxy_environment(folder: Path) -> Mapping[str, str]:
    """The variables of one cluster. `folder` must exist and be closed to other users; a launcher is written there.

    Empty where Ray brought no HAProxy, or is told not to use it. Raises Unreachable where HAProxy can't run.
    """
    binary = usable_haproxy()
    if binary is None:
        return {}
    launcher, own = folder / "haproxy", folder / "p"  # short: a socket's path has a node's id in it and ends at 97 bytes
    error = folder / "503.http"
    error.write_bytes(_NO_REPLICA)
    launcher.write_text(launcher_script(binary, error), encoding="utf-8")
    launcher.chmod(0o700)
    ports = replica_ports(folder)
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(own / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(own / "a.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(own / "m.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(own),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(own / "server-state"),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(haproxy_threads(len(os.sched_getaffinity(0)))),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.stop),
    }


def haproxy_threads(cores: int) -> int:
    """Ray's 4 at most. One thread passes 30,000 requests/s on, and more than one for two cores only wake each other. Pure."""
    return max(1, min(4, cores // 2))


def replica_ports(folder: Path) -> range:
    """The window of ports for gateway replicas of a cluster in this folder. Two folders may meet: then Serve goes on to the next
    port that is free. Pure."""
    window = int(hashlib.sha256(str(folder).encode()).hexdigest(), 16) % WINDOWS
    first = FIRST_REPLICA_PORT + window * WINDOW_PORTS
    return range(first, first + WINDOW_PORTS)


def launcher_script(binary: Path, error: Path) -> str:
    """What Serve runs as HAProxy. `error` is answered where no replica of the gateway can be asked. Pure."""
    return _LAUNCHER.replace("{binary}", str(binary)).replace("{error}", str(error)).replace("{no_gateway}", _NO_GATEWAY)
