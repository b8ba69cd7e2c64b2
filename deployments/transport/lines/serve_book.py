"""What Serve keeps account of, for calls that it does not carry: the one place that reaches into its handles and replicas for it.

Serve scales by the calls that its handles count, and its dashboards show what its replicas count. Where another release of Ray
keeps these elsewhere, there are no lines, and calls go by Serve.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

import ray
from ray._private.worker import global_worker
from ray.serve._private.common import ReplicaID

TOLD_AFTER_S = 0.25
_NONE: Mapping[ReplicaID, Any] = {}


class HandleBook:
    """A handle's replicas, and its count of calls that are under way at each. May be used from any thread."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._counts: Any = None
        self._chooser: Any = None

    def replicas(self) -> Mapping[ReplicaID, Any]:
        """As the controller told them last; another mapping once it told others. Empty before the handle's first call."""
        try:
            router = self._handle._router._asyncio_router
            found: Mapping[ReplicaID, Any] = router._request_router.curr_replicas
            self._chooser = router._request_router
        except AttributeError:
            return _NONE
        self._counts = router._metrics_manager
        return found

    def began(self, replica: ReplicaID) -> None:
        """A call is under way at the replica."""
        self._counts.inc_num_running_requests_for_replica(replica)

    def ended(self, replica: ReplicaID) -> None:
        """It is no more."""
        self._counts.dec_num_running_requests_for_replica(replica)

    def doubt(self, replica: ReplicaID) -> None:
        """It stands still: Serve gives it no calls before it has answered to Serve."""
        self._chooser.on_replica_actor_unavailable(replica)


class ReplicaBook:
    """Of the replica in this process. Used on one event loop; tells Serve a few times a second, not at each call."""

    def __init__(self) -> None:
        self._replica: Any = global_worker.actors[global_worker.actor_id]._replica_impl
        self._calls: list[tuple[float, str | None]] = []

    @property
    def most(self) -> int:
        """How many calls the replica takes at a time."""
        return int(self._replica.max_ongoing_requests)

    def answered(self, took_ms: float, raised: str | None) -> None:
        """A call was answered, or failed with an error of this name."""
        if not self._calls:
            asyncio.get_running_loop().call_later(TOLD_AFTER_S, self._tell)
        self._calls.append((took_ms, raised))

    def _tell(self) -> None:
        calls, self._calls = self._calls, []
        self._replica._event_loop.call_soon_threadsafe(self._record, calls)

    def _record(self, calls: list[tuple[float, str | None]]) -> None:
        metrics = self._replica._metrics_manager
        for took_ms, raised in calls:
            metrics.record_request_metrics(route="", latency_ms=took_ms, is_error=raised is not None, exception_type=raised)


def own_node() -> str:
    """The node of this process."""
    return str(ray.get_runtime_context().get_node_id())


def line_name(node: str, replica: ReplicaID) -> str:
    """Where a replica on this node is reached: no two clusters on a machine share it."""
    return hashlib.sha256(f"{node}/{replica.to_full_id_str()}".encode()).hexdigest()[:40]
