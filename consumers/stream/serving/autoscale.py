"""How many consumers a stream needs. The policy runs inside Serve's controller, so it never blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ray.serve.config import AutoscalingContext

from deployments.serving.scaling import settled

LAG = "lag"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What limits the number of consumers."""

    least: int
    most: int
    lag_per_replica: int
    calm_s: float


def replicas_for(lag: float, bounds: Bounds) -> int:
    """One consumer for every `lag_per_replica` records that wait, within the bounds."""
    return min(max(math.ceil(lag / bounds.lag_per_replica), bounds.least), bounds.most)


class FollowLag:
    """Serve's policy object, made from the deployment's `policy_kwargs`."""

    def __init__(self, least: int, most: int, lag_per_replica: int, calm_s: float) -> None:
        self._bounds = Bounds(least, most, lag_per_replica, calm_s)

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The target number of replicas, and what to remember."""
        lags = (context.aggregated_metrics or {}).get(LAG)
        if not lags:
            return context.target_num_replicas, context.policy_state
        # One slow replica must not be hidden by idle ones: the sum is what waits in the topic.
        wanted = replicas_for(sum(lags.values()), self._bounds)
        target, since_s = settled(
            wanted,
            context.target_num_replicas,
            context.current_time or 0.0,
            context.policy_state.get("calm"),
            self._bounds.calm_s,
        )
        return target, {"calm": since_s}
