"""What Serve's controller tells that nothing public of Serve does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from pydantic import BaseModel
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from deployments.serving.serve_inside import ask, replica_results

GATEWAY_APP = "gateway"
RUNNING = "RUNNING"  # the state of a replica that takes calls

logger = logging.getLogger(__name__)


class SeenReplica(BaseModel):
    """One replica, by the name that it is told itself. `state` is one of Serve's words, such as RUNNING."""

    replica_id: str = ""
    node_id: str | None = None
    state: str


class SeenConfig(BaseModel):
    """What a deployment was given."""

    user_config: object = None


class SeenDeployment(BaseModel):
    """One deployment of an app. `status` is one of Serve's words, such as UPDATING."""

    status: str
    message: str = ""
    target_num_replicas: int | None = None
    replicas: list[SeenReplica] = []
    deployment_config: SeenConfig = SeenConfig()


class SeenApp(BaseModel):
    """One app."""

    status: ApplicationStatus
    message: str = ""
    external_scaler_enabled: bool = False
    last_deployed_time_s: float = 0.0
    deployments: dict[str, SeenDeployment] = {}


class ServeSeen(BaseModel):
    """What we read of Serve's details. Serve's own schema pickles each deployment's router once more: 28 ms for four apps, up to
    four times a second."""

    applications: dict[str, SeenApp] = {}


def serve_details() -> ServeSeen:
    """Everything that Serve runs, target replicas too, which its public status leaves out. Raises Unreachable."""
    return ServeSeen.model_validate(ask("get_serve_instance_details"))


def each_answer(handle: DeploymentHandle[Any], method: str, *, timeout_s: float) -> Iterator[Any]:
    """What each replica answers, as it comes; of one that is silent, or raises, nothing. Ends after `timeout_s` at the latest.

    Serve's own `results` gives the first answer together with the last. Raises what Serve raises, and TimeoutError where it finds
    no replica in time.
    """
    asked: list[Any] = replica_results(handle.broadcast(method), timeout_s)
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
