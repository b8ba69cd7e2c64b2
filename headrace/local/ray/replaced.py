"""Which replicas ended without being told to, and why: as Ray's dashboard remembers it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from headrace.local.ray.dashboard import DashboardAsker

REPLICA = "ServeReplica:"
LONGEST = 200
# What Ray says of an actor that was ended on purpose: scaled down, retired, or found ill by Serve.
ON_PURPOSE = ("ray.kill", "INTENDED")
IN_OUR_WORDS = {
    "NODE_OUT_OF_MEMORY": "the machine ran out of memory, and Ray ended it",
    "connection error code 2": "its process ended at once: killed (by hand, by the kernel, over its memory limit), or a crash",
    "NODE_DIED": "its node has died",
}


class ReplacedView(BaseModel):
    """A replica that ended by itself. `app` is its Serve app, `ended_s` in Unix time."""

    model_config = ConfigDict(frozen=True)

    app: str
    pid: int
    ended_s: float
    why: str


def replaced(dashboard: DashboardAsker) -> tuple[ReplacedView, ...] | None:
    """The newest last. None where the dashboard can't be asked: what is served does not depend on it."""
    try:
        rows: Mapping[str, Any] = dashboard.get("/logical/actors")["data"]["actors"]
        return in_order(rows.values())
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return None


def in_order(rows: Iterable[Mapping[str, Any]]) -> tuple[ReplacedView, ...]:
    """What the dashboard's rows of actors say of replicas. Pure."""
    found = []
    for row in rows:
        detail = str(row.get("exitDetail") or "")
        replica = str(row.get("actorClass") or "")
        if row.get("state") != "DEAD" or not replica.startswith(REPLICA) or any(words in detail for words in ON_PURPOSE):
            continue
        app = replica.removeprefix(REPLICA).rpartition(":")[0]
        ended_s = float(row.get("endTime") or 0) / 1000
        found.append(ReplacedView(app=app, pid=int(row.get("pid") or 0), ended_s=ended_s, why=_why(detail)))
    return tuple(sorted(found, key=lambda one: one.ended_s))


def _why(detail: str) -> str:
    for words, ours in IN_OUR_WORDS.items():
        if words in detail:
            return ours
    told = detail.rpartition("Worker exit detail:")[2].strip() or detail
    return " ".join(told.split())[:LONGEST] or "Ray does not say"
