"""The machines of the cluster, as Ray counts them."""

from __future__ import annotations

from dataclasses import dataclass

import ray

_HEAD = "node:__internal_head__"


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """One machine: what it has in all. `memory_bytes` is what Ray hands out of it."""

    id: str
    address: str
    alive: bool
    is_head: bool
    cpus: float
    gpus: float
    memory_bytes: float


def ray_nodes() -> tuple[NodeSeen, ...]:
    """All nodes, those that have ended too. Blocks for some milliseconds; raises RayError where Ray does not answer."""
    seen: list[dict[str, object]] = ray.nodes()  # type: ignore[no-untyped-call]
    return tuple(_node(row) for row in seen)


def _node(row: dict[str, object]) -> NodeSeen:
    resources = row.get("Resources")
    has: dict[str, float] = resources if isinstance(resources, dict) else {}
    return NodeSeen(
        id=str(row["NodeID"])[:12],
        address=str(row["NodeManagerAddress"]),
        alive=bool(row["Alive"]),
        is_head=_HEAD in has,
        cpus=float(has.get("CPU", 0.0)),
        gpus=float(has.get("GPU", 0.0)),
        memory_bytes=float(has.get("memory", 0.0)),
    )
