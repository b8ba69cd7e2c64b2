"""The controller as scorers and gateways see it."""

from __future__ import annotations

from typing import Any, Protocol

from cluster.access.callers import CLUSTER, Caller
from cluster.audit.uses import UseReport
from cluster.drift.counts import DriftReport
from cluster.rollout.evidence import EvidenceBatch
from cluster.routing.routes import RouteTable, Stamp
from cluster.watch.reports import MetricsReport

Told = EvidenceBatch | MetricsReport | DriftReport | UseReport


class ControlPlane(Protocol):
    """What scorers and the gateway need of the controller. The calls return quickly, or raise Unreachable while it is away."""

    async def routes(self, after: Stamp, timeout_s: float) -> RouteTable:
        """The table as soon as it is later than `after`; the unchanged one once `timeout_s` is over."""

    async def push(self, told: Told) -> None:
        """Hands evidence over, or what a process counted. Safe to repeat: what was seen is not counted again. Uses are recorded
        once this has returned.

        Raises NotFound where a drift report comes without a reference that the controller needs: push it again with that.
        """

    async def call(self, command: str, payload: dict[str, Any], caller: Caller = CLUSTER) -> dict[str, Any]:
        """Runs one of `cluster.commands.registry.COMMANDS` on plain JSON data, as that caller may. Who calls for others says
        for whom.

        Raises NotFound for an unknown command, BadInput for a bad payload, Unauthenticated or Forbidden where the caller may not,
        and what the command raises.
        """
