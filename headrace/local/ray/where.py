"""Which machines there are, in which zones, and what runs on each: as Ray's dashboard tells it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from headrace.local.ray.dashboard import DashboardAsker

ZONE = "ray.io/availability-zone"
RUNNING = "RUNNING"
ALIVE, LEFT = "alive", "left"
# Told to end, drained before its machine is taken away, or idle: it did not die.
LEFT_IN_RAYS_WORDS = ("Expected termination", "Terminated due to")


class NodeView(BaseModel):
    """One machine of the Ray cluster. `state` is alive, dead, or left where it was asked to go. `resources` are what it has in
    all, e.g. CPU 8, GPU 1; `runs` how many replicas of which app are there, by the app's name. `zone` is empty where nobody told
    Ray."""

    model_config = ConfigDict(frozen=True)

    id: str
    address: str
    state: str
    is_head: bool
    resources: dict[str, float]
    zone: str = ""
    runs: dict[str, int] = {}


def nodes_of(dashboard: DashboardAsker) -> tuple[NodeView, ...] | None:
    """None where the dashboard can't be asked: what is served does not depend on it."""
    try:
        rows: list[dict[str, Any]] = dashboard.get("/api/v0/nodes", detail="false")["data"]["result"]["result"]
        apps: Mapping[str, Any] = dashboard.get("/api/serve/applications/")["applications"]
        return node_views(rows, apps)
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def node_views(rows: Iterable[Mapping[str, Any]], apps: Mapping[str, Any]) -> tuple[NodeView, ...]:
    """What the dashboard's rows of nodes and of Serve's apps say together; those that have ended last. Pure."""
    there: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, app in apps.items():
        for replica in (one for deployment in app["deployments"].values() for one in deployment["replicas"]):
            if replica["state"] == RUNNING:
                there[str(replica["node_id"])][name] += 1
    views = [
        NodeView(
            id=str(row["node_id"]),
            address=str(row["node_ip"]),
            state=LEFT if str(row.get("state_message") or "").startswith(LEFT_IN_RAYS_WORDS) else str(row["state"]).lower(),
            is_head=bool(row["is_head_node"]),
            resources={k: v for k, v in (row.get("resources_total") or {}).items() if not k.startswith("node:")},
            zone=str((row.get("labels") or {}).get(ZONE, "")),
            runs=dict(sorted(there[str(row["node_id"])].items())),
        )
        for row in rows
    ]
    return tuple(sorted(views, key=lambda view: (view.state != ALIVE, not view.is_head, view.address)))
