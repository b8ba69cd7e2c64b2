"""Drains this node, a line for each change of what is still here: `python -m headrace.local.ray.drain_here SECONDS`.

In a process of its own: once nothing is left, Ray ends the node, and with it whoever is its driver.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.error_wire import to_wire
from cluster.errors import Conflict, HeadraceError, Unreachable
from deployments.serving.serve_controller import ServeSeen
from headrace.local.home import read_settings
from headrace.local.ray.connection import joined_ray

POLL_S = 0.5
HEAD = "node:__internal_head__"
ASKED_S = 30.0  # at least: a machine that is to go may be so busy that the mere question takes longer
REASON = "DRAIN_NODE_REASON_PREEMPTION"  # the one that Ray never refuses, and that Serve acts on before the node ends


def on_node(seen: ServeSeen, node: str) -> tuple[str, ...]:
    """The apps that have a replica on the node. Pure."""
    apps = seen.applications.items()
    return tuple(
        sorted(
            name for name, app in apps if any(one.node_id == node for each in app.deployments.values() for one in each.replicas)
        )
    )


def check_not_head(node: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises Conflict where `node` is the head, by Ray's rows of nodes: all would end with it. Pure."""
    if any(row["NodeID"] == node and HEAD in row["Resources"] for row in rows):
        raise Conflict(
            "this is the head: the whole cluster would leave with it",
            where="headrace leave",
            remedy="run it on the node that is to go; `headrace down` where the service was started ends it all",
        )


def _drained(within_s: float) -> Iterator[tuple[str, ...]]:
    """What is still here, until nothing is or the time is over. Raises Conflict for the head, Unreachable."""
    import ray

    from deployments.serving.serve_controller import serve_details

    node, until = ray.get_runtime_context().get_node_id(), time.monotonic() + within_s
    check_not_head(node, ray.nodes())  # type: ignore[no-untyped-call]
    ask_ray(str(ray.get_runtime_context().gcs_address), node, within_s)
    while True:
        remaining = on_node(serve_details(), node)
        yield remaining
        if not remaining or time.monotonic() >= until:
            return
        time.sleep(POLL_S)  # Serve tells nobody when a replica has gone


def ask_ray(address: str, node: str, within_s: float) -> None:
    """Has Ray drain the node within that time; returns once it says that it will. Raises Unreachable."""
    asked = [
        *(sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address, "--node-id", node),
        *("--reason", REASON, "--reason-message", "headrace leave"),
        *("--deadline-remaining-seconds", str(max(1, round(within_s)))),
    ]
    limit_s = max(ASKED_S, within_s)
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"Ray did not answer within {limit_s:.0f} s", where=address, remedy="try again") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Unreachable(f"Ray does not drain this node: {''.join(said)}", where=address, remedy="look into Ray's logs")


def main(within_s: float) -> int:
    """0 where all is said; else the last line is the error, as it goes over the wire."""
    try:
        with joined_ray(read_settings()):
            for remaining in _drained(within_s):
                _write({"remaining": remaining})
    except HeadraceError as error:
        _write({"error": to_wire(error)})
        return 1
    return 0


def _write(document: object) -> None:
    sys.stdout.write(f"{json.dumps(document)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
