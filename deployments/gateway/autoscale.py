"""How many gateways are needed, by the requests that they count themselves. The policy runs inside Serve's controller."""

from __future__ import annotations

import math
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from deployments.serving.scaling import settled

REQUESTS = "requests"
REQUESTS_A_GATEWAY = 64  # under way at a time: one answers as many as ever then, and they wait a few milliseconds
CALM_S = 60.0


def gateways_for(requests: float, least: int, most: int) -> int:
    """One gateway for every `REQUESTS_A_GATEWAY` requests under way, within the bounds. Pure."""
    return min(max(math.ceil(requests / REQUESTS_A_GATEWAY), least), most)


class FollowRequests:
    """Serve's policy object, made from the deployment's `policy_kwargs`."""

    def __init__(self, least: int, most: int, calm_s: float) -> None:
        self._least, self._most, self._calm_s = least, most, calm_s

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The target number of gateways, and what to remember."""
        counts = (context.aggregated_metrics or {}).get(REQUESTS)
        if not counts:
            return context.target_num_replicas, context.policy_state
        wanted = gateways_for(sum(counts.values()), self._least, self._most)
        now_s, since_s = context.current_time or 0.0, context.policy_state.get("calm")
        target, since_s = settled(wanted, context.target_num_replicas, now_s, since_s, self._calm_s)
        return target, {"calm": since_s}


def autoscaling(least: int, most: int) -> AutoscalingConfig:
    """Serve's settings for between `least` and `most` gateways."""
    policy = {
        "policy_function": "deployments.gateway.autoscale:FollowRequests",
        "policy_kwargs": {"least": least, "most": most, "calm_s": CALM_S},
    }
    return AutoscalingConfig(
        min_replicas=least,
        initial_replicas=least,
        max_replicas=most,
        metrics_interval_s=1,
        look_back_period_s=3,
        upscale_delay_s=0,
        downscale_delay_s=0,
        policy=AutoscalingPolicy.model_validate(policy),
    )
