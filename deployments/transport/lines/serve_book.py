"""What Serve keeps account of, for calls that it does not carry: the one place that reaches into its handles and replicas for it.

Serve scales by the calls that its handles count, and its dashboards show what its replicas count. Where another release of Ray
keeps these elsewhere, there are no lines, and calls go by Serve.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import ray

from deployments.insides import Inside

TOLD_AFTER_S = 0.25
_BY_SERVE = "calls go by Serve alone"
_ROUTER = "ray.serve._private.router"
_CHOOSER = "ray.serve._private.request_router.request_router"
_WORKER = Inside("ray._private.worker", "global_worker", without=_BY_SERVE)
# Handles and replicas hold objects of these classes; they are found from there, which loads nothing.
TABLE = (
    _WORKER,
    Inside("ray.serve._private.common", "ReplicaID.to_full_id_str", without=_BY_SERVE),
    Inside("ray.serve.handle", "DeploymentHandle._init", without="handles route on a thread of their own, which takes longer"),
    Inside(_CHOOSER, "RequestRouter.curr_replicas", without=_BY_SERVE),
    Inside(_CHOOSER, "RequestRouter.on_replica_actor_unavailable", without="Serve finds by itself which replica stands still"),
    Inside(_ROUTER, "RouterMetricsManager.inc_num_running_requests_for_replica", without=_BY_SERVE),
    Inside(_ROUTER, "RouterMetricsManager.dec_num_running_requests_for_replica", without=_BY_SERVE),
    Inside("ray.serve._private.replica", "ReplicaMetricsManager.record_request_metrics", without=_BY_SERVE),
    Inside("ray.serve._private.replica", "Replica.max_ongoing_requests", without=_BY_SERVE),
)

ReplicaName = Hashable  # Serve's own id of a replica
_NONE: Mapping[ReplicaName, Any] = {}

_log = logging.getLogger(__name__)


def route_on_this_loop(handle: Any) -> None:
    """Has a handle that was not used yet choose replicas on the caller's event loop, which costs no hop between threads."""
    try:
        handle._init(_run_router_in_separate_loop=False)
    except (AttributeError, TypeError) as error:
        _log.warning("%s: handles choose replicas on a thread of their own: %r", handle, error)


class HandleBook:
    """A handle's replicas, and its count of calls that are under way at each. May be used from any thread."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._known = True
        self._chooser: Any = None
        self._began: Callable[[ReplicaName], None] = _count_nothing
        self._ended: Callable[[ReplicaName], None] = _count_nothing
        self._began_by_line: Callable[[ReplicaName], None] = _count_nothing
        self._ended_by_line: Callable[[ReplicaName], None] = _count_nothing
        self._doubt: Callable[[ReplicaName], None] = _count_nothing

    def replicas(self) -> Mapping[ReplicaName, Any]:
        """As the controller told them last; another mapping once it told others. Empty before the handle's first call, and where
        Serve keeps its account otherwise than is known here."""
        if not self._known:
            return _NONE
        try:
            router = self._handle._router._asyncio_router
            chooser = router._request_router
            found: Mapping[ReplicaName, Any] = chooser.curr_replicas
        except AttributeError:
            return _NONE  # also before the first call
        if chooser is not self._chooser:
            try:
                counts = router._metrics_manager
                self._began, self._ended = (
                    counts.inc_num_running_requests_for_replica,
                    counts.dec_num_running_requests_for_replica,
                )
            except AttributeError as error:
                self._give_up(error)
                return _NONE
            self._chooser = chooser
            # Of an app that was deployed by another release, Serve's own chooser, which knows of no lines.
            self._began_by_line = getattr(chooser, "began_by_line", _count_nothing)
            self._ended_by_line = getattr(chooser, "ended_by_line", _count_nothing)
            self._doubt = getattr(chooser, "on_replica_actor_unavailable", _count_nothing)
        return found

    def line_to(self, replica: ReplicaName, seen: Any, node: str) -> tuple[str, int] | None:
        """Where a replica that is `seen` listens, and how many calls it takes at a time; None where it is on another node, or
        this Serve tells it otherwise than is known here."""
        try:
            return (line_name(node, replica), seen.max_ongoing_requests) if seen.node_id == node else None
        except AttributeError as error:
            self._give_up(error)
            return None

    def began(self, replica: ReplicaName) -> None:
        """A call is under way at the replica."""
        self._tell(self._began, replica)
        self._began_by_line(replica)

    def ended(self, replica: ReplicaName) -> None:
        """It is no more."""
        self._tell(self._ended, replica)
        self._ended_by_line(replica)

    def doubt(self, replica: ReplicaName) -> None:
        """It stands still: Serve gives it no calls before it has answered to Serve."""
        self._tell(self._doubt, replica)

    def _tell(self, count: Callable[[ReplicaName], None], replica: ReplicaName) -> None:
        try:
            count(replica)
        except (AttributeError, TypeError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """The call under way goes on; those after it go by Serve, which counts them itself."""
        if self._known:
            _log.warning("this Serve keeps another account of calls than is known here: %s: %r", _BY_SERVE, error)
        self._known = False


def _count_nothing(_: ReplicaName) -> None:
    """There is no line yet, and so no call."""


class ReplicaBook:
    """Of the replica in this process. Used on one event loop; tells Serve a few times a second, not at each call."""

    def __init__(self) -> None:
        """Raises AttributeError or KeyError where this Serve keeps another account than is known here."""
        worker = _WORKER.probe()
        replica = worker.actors[worker.actor_id]._replica_impl
        self.most = int(replica.max_ongoing_requests)  # calls that it takes at a time
        self._loop: asyncio.AbstractEventLoop = replica._event_loop
        self._count: Callable[..., None] = replica._metrics_manager.record_request_metrics
        self._calls: list[tuple[float, str | None]] = []

    def answered(self, took_ms: float, raised: str | None) -> None:
        """A call was answered, or failed with an error of this name."""
        if not self._calls:
            asyncio.get_running_loop().call_later(TOLD_AFTER_S, self._tell)
        self._calls.append((took_ms, raised))

    def _tell(self) -> None:
        calls, self._calls = self._calls, []
        self._loop.call_soon_threadsafe(self._record, calls)

    def _record(self, calls: list[tuple[float, str | None]]) -> None:
        try:
            for took_ms, raised in calls:
                self._count(route="", latency_ms=took_ms, is_error=raised is not None, exception_type=raised)
        except TypeError as error:
            _log.warning("Serve's own metrics leave out the calls that come by lines: %r", error)
            self._count = _record_nothing


def _record_nothing(**_: object) -> None:
    """This Serve counts otherwise."""


def own_node() -> str:
    """The node of this process."""
    return str(ray.get_runtime_context().get_node_id())


def line_name(node: str, replica: ReplicaName) -> str:
    """Where a replica on this node is reached: no two clusters on a machine share it.

    Raises AttributeError where this Serve names replicas otherwise.
    """
    name: str = replica.to_full_id_str()  # type: ignore[attr-defined]
    return hashlib.sha256(f"{node}/{name}".encode()).hexdigest()[:40]
