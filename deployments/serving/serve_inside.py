"""What the fleet needs of Serve's insides: its controller, which the dashboard's REST door asks in the same words."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from cluster.errors import Unreachable
from deployments.insides import Inside

ASK_TIMEOUT_S = 30

_BLIND = "what Serve runs can't be asked: models are not deployed, scaled or watched"
_CLIENT = Inside("ray.serve.context", "_get_global_client", without=_BLIND)
_DETAILS = Inside("ray.serve._private.controller", "ServeController.get_serve_instance_details", without=_BLIND)
_SCALE = Inside("ray.serve._private.controller", "ServeController.update_deployment_replicas", without="`scale` does nothing")
_DEPLOYMENT_ID = Inside("ray.serve._private.common", "DeploymentID", without="`scale` does nothing")
_RESULTS = Inside(
    "ray.serve.handle",
    "DeploymentBroadcastResponse._fetch_replica_results_sync",
    without="what replicas answer is known only once the slowest did",
)
# Looked up where it is used: a process that only scores loads none of it.
TABLE = (_CLIENT, _DETAILS, _SCALE, _DEPLOYMENT_ID, _RESULTS)


def ask(method: str, *args: Any) -> Any:
    """Calls a method of Serve's controller. Blocks. Raises Unreachable."""
    client = _CLIENT.find()
    if client is None:
        raise _another_release(_CLIENT)
    try:
        asked = getattr(client()._controller, method)
        return ray.get(asked.remote(*args), timeout=ASK_TIMEOUT_S)
    except (RayError, RayServeException) as error:
        raise away(error) from error
    except AttributeError as error:
        raise _another_release(_DETAILS) from error


def scale(app: str, deployment: str, replicas: int) -> None:
    """Asks for so many replicas of a deployment. Raises Unreachable."""
    name = _DEPLOYMENT_ID.find()
    if name is None:
        raise _another_release(_DEPLOYMENT_ID)
    ask("update_deployment_replicas", name(name=deployment, app_name=app), replicas)


def replica_results(response: Any, timeout_s: float) -> list[Any]:
    """What a broadcast brings, one a replica, each with its own `get`. Blocks until the replicas are known.

    Raises what Serve raises, and TimeoutError.
    """
    try:
        results: list[Any] = response._fetch_replica_results_sync(timeout_s)
    except AttributeError:
        _RESULTS.probe()
        return [_Answered(result) for result in response.results(timeout_s=timeout_s, return_exceptions=True)]
    return results


def away(error: Exception) -> Unreachable:
    """What Serve's own errors become."""
    return Unreachable(f"Serve can't be asked: {error}", where="ray serve", remedy="start the cluster, or wait for its head")


def _another_release(missing: Inside) -> Unreachable:
    return Unreachable(
        f"this Ray has no {missing.module}.{missing.name}: {missing.without}",
        where=f"ray {ray.__version__}",
        remedy="use the release of Ray that Headrace is pinned to",
    )


class _Answered:
    """An answer that is there."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def get(self, timeout_s: float | None = None) -> Any:  # noqa: ARG002 - as Serve's own
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def cancel(self) -> None:
        """Nothing is under way."""
