"""The fleet on Ray Serve: one route-less app a version, deployed once."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from ray import cloudpickle, serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from cluster.errors import BadInput, Conflict, NotFound
from cluster.fleet.serving import Scaling, ScalingMode, Serving
from cluster.ports import AppState
from cluster.versions import Version
from deployments.serving.replica import Replica
from deployments.serving.serve_controller import GATEWAY_APP, RUNNING, SeenApp, serve_details
from deployments.serving.serve_inside import away, scale
from deployments.serving.serve_state import app_state
from deployments.transport import least_busy
from deployments.transport.remote import DEPLOYMENT

# A start that failed is tried once more: the store of artifacts may have been away. Serve's own default is to go on for minutes.
STARTS_AT_MOST = 2
HEALTH_EVERY_S = 5.0
GATEWAY_ALONE_S = 20.0
STUCK_AFTER_AT_LEAST_S = 30.0
_VERSION_APP = re.compile(r"--v\d+$")


class ServeFleet:
    """Implements `Fleet`. Ray must be connected; may be used from any thread, an actor's too."""

    replica: type[Replica] = Replica

    def deploy(self, version: Version, serving: Serving, replicas: int) -> None:
        """See `Fleet.deploy`. Raises BadInput for what Serve does not take."""
        running = serve_details().applications
        if version.id.app in running or gateway_opens(running, time.time()):
            return
        target = run_target(version, serving, replicas, self.replica)
        try:
            serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        except (RayError, RayServeException) as error:
            raise away(error) from error

    def state(self) -> Mapping[str, AppState]:
        """See `Fleet.state`."""
        seen = {}
        for name, app in serve_details().applications.items():
            if _VERSION_APP.search(name) and set(app.deployments) <= {DEPLOYMENT}:
                seen[name] = app_state(name, app, DEPLOYMENT)
        return seen

    def scale(self, app: str, replicas: int) -> None:
        """See `Fleet.scale`."""
        found = serve_details().applications.get(app)
        if found is None:
            raise NotFound("no such app", where=app, remedy="name a version that is deployed")
        if not found.external_scaler_enabled:
            raise Conflict("it scales on its own", where=app, remedy="set `scaling: manual` in the Model document")
        deployment = found.deployments.get(DEPLOYMENT)
        if deployment is not None and deployment.target_num_replicas == replicas:
            return
        scale(app, DEPLOYMENT, replicas)

    def retire(self, app: str) -> None:
        """See `Fleet.retire`."""
        if app in serve_details().applications:
            try:
                serve.delete(app, _blocking=False)
            except (RayError, RayServeException) as error:
                raise away(error) from error


def gateway_opens(running: Mapping[str, SeenApp], now_s: float) -> bool:
    """Whether the first gateway starts just now: it comes first, versions are asked for again at the next tick. Pure.

    Twenty replicas that start with it keep the door of all models closed for a minute; it alone takes seconds.
    """
    app = running.get(GATEWAY_APP)
    if app is None or app.status is not ApplicationStatus.DEPLOYING or now_s - app.last_deployed_time_s > GATEWAY_ALONE_S:
        return False
    return not any(replica.state == RUNNING for one in app.deployments.values() for replica in one.replicas)


def run_target(version: Version, serving: Serving, replicas: int, replica: type[Replica]) -> serve.RunTarget:
    """What Serve is asked to run. Raises BadInput where it does not take the options. Pure."""
    try:
        deployment = serve.deployment(name=DEPLOYMENT, **deployment_options(serving, replicas))(replica)
    except ValueError as error:
        raise BadInput(
            f"Ray does not take its `serving` section: {error}",
            where=str(version.id),
            remedy="correct it, apply it, and start the rollout again",
        ) from error
    bound = deployment.bind(
        version.artifact_uri,
        version.digest,
        model=version.id.model,
        threads=serving.threads,
        gpus=serving.resources.gpus,
        stuck_after_s=_stuck_after_s(serving),
        memory_bytes=serving.memory_bytes,
    )
    return serve.RunTarget(
        target=bound,
        name=version.id.app,
        route_prefix=None,
        external_scaler_enabled=serving.scaling.mode is ScalingMode.MANUAL,
    )


def deployment_options(serving: Serving, replicas: int) -> dict[str, Any]:
    """Serve's options for one version. Pure.

    A stopping replica may finish the longest call, so retiring loses none. Serve begins no app with 0 replicas: it gets one then.
    """
    options: dict[str, Any] = {
        "max_ongoing_requests": serving.max_ongoing,
        "max_queued_requests": 4 * serving.max_ongoing,
        "max_constructor_retry_count": STARTS_AT_MOST,
        "graceful_shutdown_timeout_s": serving.timeout_s + 5,
        "graceful_shutdown_wait_loop_s": 0.1,
        "health_check_period_s": HEALTH_EVERY_S,
        "health_check_timeout_s": _stuck_after_s(serving),
        "ray_actor_options": _actor_options(serving),
        "request_router_config": _chooser(),
    }
    if serving.scaling.mode is ScalingMode.MANUAL:
        return options | {"num_replicas": max(replicas, 1)}
    return options | {"autoscaling_config": _autoscaling(serving.scaling, replicas)}


def _actor_options(serving: Serving) -> dict[str, Any]:
    resources = serving.resources
    options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    if resources.accelerator_type is not None:
        options["accelerator_type"] = resources.accelerator_type
    if resources.node_labels:
        options["label_selector"] = dict(resources.node_labels)
    if serving.memory_bytes is not None:
        options["memory"] = serving.memory_bytes
    return options


def _chooser() -> RequestRouterConfig:
    """It travels as it is, not by its name: a process of another release, which may not know that name, would hear nothing more
    from Serve."""
    cloudpickle.register_pickle_by_value(least_busy)  # type: ignore[no-untyped-call]
    return RequestRouterConfig(request_router_class=least_busy.LeastBusyRouter)  # type: ignore[arg-type]


def _autoscaling(scaling: Scaling, replicas: int) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=scaling.min,
        initial_replicas=min(max(replicas, scaling.min), scaling.max),
        max_replicas=scaling.max,
        target_ongoing_requests=scaling.target_ongoing,
        upscale_delay_s=5,
        downscale_delay_s=60,
        metrics_interval_s=1,
        look_back_period_s=5,
    )


def _stuck_after_s(serving: Serving) -> float:
    return max(3 * serving.timeout_s, STUCK_AFTER_AT_LEAST_S)
