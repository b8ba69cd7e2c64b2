"""The machines of the cluster, as Ray counts them, and how busy they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import ray

from cluster.errors import in_words
from deployments.gateway.console.node_loads import NodeLoad, NodeLoads

_HEAD = "node:__internal_head__"
# Ray's numbers for: told to end, drained before its machine is taken away, idle. A cluster that breathes has such ones every day.
LEFT = (1, 3, 4)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """One machine: what it has in all. `memory_bytes` is what Ray hands out of it; `load` is None where nobody measures it."""

    id: str
    address: str
    alive: bool
    is_head: bool
    cpus: float
    gpus: float
    memory_bytes: float
    load: NodeLoad | None = None


class RayNodes:
    """Asks the Ray that this process belongs to."""

    def __init__(self, loads: Callable[[], Mapping[str, NodeLoad]] | None = None) -> None:
        self._loads = loads or NodeLoads().seen
        self._away = False

    def __call__(self) -> tuple[NodeSeen, ...]:
        """See `nodes_in`. Blocks for some milliseconds; raises RayError where Ray does not answer."""
        return nodes_in(ray.nodes(), self._measured())  # type: ignore[no-untyped-call]

    def _measured(self) -> Mapping[str, NodeLoad]:
        try:
            found = self._loads()
        except Exception as error:  # noqa: BLE001 (whatever it is: a console goes without)
            if not self._away:
                _log.warning("how busy nodes are can't be asked for: %s", in_words(error))
            self._away = True
            return {}
        self._away = False
        return found


def nodes_in(rows: Iterable[dict[str, object]], loads: Mapping[str, NodeLoad]) -> tuple[NodeSeen, ...]:
    """What Ray's rows of nodes say: all, those that died too, but none that has left as it was asked to. Pure."""
    return tuple(_node(row, loads) for row in rows if row["Alive"] or row.get("DeathReason") not in LEFT)


def _node(row: dict[str, object], loads: Mapping[str, NodeLoad]) -> NodeSeen:
    resources = row.get("Resources")
    has: dict[str, float] = resources if isinstance(resources, dict) else {}
    node_id, alive = str(row["NodeID"]), bool(row["Alive"])
    return NodeSeen(
        id=node_id[:12],
        address=str(row["NodeManagerAddress"]),
        alive=alive,
        is_head=_HEAD in has,
        cpus=float(has.get("CPU", 0.0)),
        gpus=float(has.get("GPU", 0.0)),
        memory_bytes=float(has.get("memory", 0.0)),
        load=loads.get(node_id) if alive else None,
    )
