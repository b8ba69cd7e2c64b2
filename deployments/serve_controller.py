"""Asks Serve's controller what nothing public of Serve tells or does: the one place that reaches into Serve for it."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ServeInstanceDetails

from cluster.errors import Unreachable

ASK_TIMEOUT_S = 30


def ask(method: str, *args: Any) -> Any:
    """Calls a method of Serve's controller, the one that the dashboard's REST door asks in the same words. Blocks.

    Raises Unreachable.
    """
    try:
        client: Any = _get_global_client()
        return ray.get(getattr(client._controller, method).remote(*args), timeout=ASK_TIMEOUT_S)
    except (RayError, RayServeException) as error:
        raise away(error) from error


def serve_details() -> ServeInstanceDetails:
    """Everything that Serve runs, target replicas too, which its public status leaves out. Raises Unreachable."""
    return ServeInstanceDetails(**ask("get_serve_instance_details"))


def away(error: Exception) -> Unreachable:
    """What Serve's own errors become."""
    return Unreachable(f"Serve can't be asked: {error}", where="ray serve", remedy="start the cluster, or wait for its head")
