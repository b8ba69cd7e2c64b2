"""Asks Serve's controller what nothing public of Serve tells or does: the one place that reaches into Serve for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import ray
from pydantic import BaseModel
from ray.exceptions import RayError
from ray.serve._private.common import DeploymentStatus, ReplicaState
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from cluster.errors import Unreachable

ASK_TIMEOUT_S = 30

logger = logging.getLogger(__name__)


class SeenReplica(BaseModel):
    """One replica, by the name that it is told itself."""

    replica_id: str = ""
    node_id: str | None = None
    state: ReplicaState


class SeenConfig(BaseModel):
    """What a deployment was given."""

    user_config: object = None


class SeenDeployment(BaseModel):
    """One deployment of an app."""

    status: DeploymentStatus
    message: str = ""
    target_num_replicas: int | None = None
    replicas: list[SeenReplica] = []
    deployment_config: SeenConfig = SeenConfig()


class SeenApp(BaseModel):
    """One app."""

    status: ApplicationStatus
    message: str = ""
    external_scaler_enabled: bool = False
    deployments: dict[str, SeenDeployment] = {}


class ServeSeen(BaseModel):
    """What we read of Serve's details. Serve's own schema pickles each deployment's router once more: 28 ms for four apps, up to
    four times a second."""

    applications: dict[str, SeenApp] = {}


def ask(method: str, *args: Any) -> Any:
    """Calls a method of Serve's controller, the one that the dashboard's REST door asks in the same words. Blocks.

    Raises Unreachable.
    """
    try:
        client: Any = _get_global_client()
        return ray.get(getattr(client._controller, method).remote(*args), timeout=ASK_TIMEOUT_S)
    except (RayError, RayServeException) as error:
        raise away(error) from error


def serve_details() -> ServeSeen:
    """Everything that Serve runs, target replicas too, which its public status leaves out. Raises Unreachable."""
    return ServeSeen.model_validate(ask("get_serve_instance_details"))


def each_answer(handle: DeploymentHandle[Any], method: str, *, timeout_s: float) -> Iterator[Any]:
    """What each replica answers, as it comes; of one that is silent, or raises, nothing. Ends after `timeout_s` at the latest.

    Serve's own `results` gives the first answer together with the last. Raises what Serve raises, and TimeoutError where it finds
    no replica in time.
    """
    asked: list[Any] = handle.broadcast(method)._fetch_replica_results_sync(timeout_s)
    with ThreadPoolExecutor(max(len(asked), 1), thread_name_prefix="replica-answers") as threads:
        answers = {threads.submit(one.get, timeout_s): one for one in asked}
        for answered in as_completed(answers):
            error = answered.exception()
            if error is None:
                yield answered.result()
                continue
            if isinstance(error, TimeoutError):
                answers[answered].cancel()  # else they pile up before a replica that stands still
            logger.info("a replica of %s does not answer: %s", handle.deployment_id, error)


def away(error: Exception) -> Unreachable:
    """What Serve's own errors become."""
    return Unreachable(f"Serve can't be asked: {error}", where="ray serve", remedy="start the cluster, or wait for its head")
