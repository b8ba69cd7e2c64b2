"""How busy machines are, as Ray's agents on them measure it: asked of Ray's dashboard, which gathers it, in one call for all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deployments.gateway.console.shared_secret import ray_token
from deployments.insides import Inside

if TYPE_CHECKING:
    import httpx

ASK_S = 3.0
SUMMARY = "/nodes?view=summary"
_KV_GET = Inside("ray.experimental.internal_kv", "_internal_kv_get", without="the console does not show how busy nodes are")
TABLE = (_KV_GET,)


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """One GPU; `busy` is the share of its time, None where its driver does not say."""

    name: str
    busy: float | None
    memory_used_bytes: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """One machine: the share of its CPUs that is busy, and its memory, whoever uses them."""

    cpu_busy: float
    memory_used_bytes: float
    memory_bytes: float
    gpus: tuple[GpuLoad, ...] = ()


class NodeLoads:
    """Asks one Ray, the one that this process belongs to. `seen` blocks."""

    def __init__(self) -> None:
        self._url = ""
        self._http: httpx.Client | None = None  # kept: to make one reads all authorities that this machine trusts

    def seen(self) -> Mapping[str, NodeLoad]:
        """By a node's id, as long as Ray has it. Raises httpx.HTTPError, ValueError and RayError; nothing is served by it."""
        token = ray_token(os.environ)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = self._url or _dashboard()
        if not url:
            return {}
        self._url = ""  # it may come back elsewhere
        if self._http is None:
            import httpx  # only where a console is looked at

            # No connection is left open from one look to the next.
            self._http = httpx.Client(timeout=ASK_S, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
        answer = self._http.get(f"{url}{SUMMARY}", headers=headers)
        found = loads_of(answer.raise_for_status().json())
        self._url = url
        return found


def _dashboard() -> str:
    """Where it listens; empty where there is none."""
    get = _KV_GET.find()
    told = get(b"dashboard", namespace=b"dashboard") if get is not None else None
    return f"http://{told.decode()}" if told else ""


def loads_of(told: Mapping[str, Any]) -> Mapping[str, NodeLoad]:
    """What the dashboard's summary says; a node that has not been measured is left out. Pure."""
    found = {}
    for node in told["data"]["summary"]:
        node_id, memory = str(node.get("raylet", {}).get("nodeId", "")), node.get("mem")
        if node_id and memory and node.get("cpu") is not None:
            gpus = tuple(_gpu(gpu) for gpu in node.get("gpus") or ())
            found[node_id] = NodeLoad(round(float(node["cpu"]) / 100, 2), _coarse(memory[3]), float(memory[0]), gpus)
    return found


def _gpu(told: Mapping[str, Any]) -> GpuLoad:
    busy = told.get("utilizationGpu")
    used, whole = float(told.get("memoryUsed", 0)), float(told.get("memoryTotal", 0))  # MiB
    return GpuLoad(str(told.get("name", "")), None if busy is None else float(busy) / 100, used * 2**20, whole * 2**20)


def _coarse(size_bytes: float) -> float:
    """To 64 MiB: each change is told to every viewer."""
    return float(round(float(size_bytes) / 2**26) * 2**26)
