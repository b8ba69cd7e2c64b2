"""Streams on Ray Serve: one route-less app a stream, whose replicas are the consumers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.exceptions import RayServeException

from cluster.errors import BadInput
from cluster.findings import first_finding
from cluster.ports import FeedKind, FeedSpec, FeedState
from consumers.stream.kafka.kafka_python.client import brokers_of_environment
from consumers.stream.serving.health import stream_state
from consumers.stream.serving.replica import STOP_S, StreamReplica
from consumers.stream.serving.worker_reports import Replicas, WorkerReports
from consumers.stream.spec import StreamSpec
from deployments.serving.serve_controller import RUNNING, SeenApp, serve_details
from deployments.serving.serve_inside import away
from deployments.serving.serve_state import app_state

DEPLOYMENT = "consumer"
PREFIX = f"{FeedKind.STREAM}--"
HEALTH_EVERY_S = 5.0


class ServeStreams:
    """Implements `Feeds` for streams. Ray must be connected. `brokers` is for documents that name none.

    Where it is None, KAFKA_BOOTSTRAP_SERVERS of this process is used, else a broker on this machine.
    """

    def __init__(self, brokers: str | None = None) -> None:
        self._brokers = brokers or brokers_of_environment()
        self._reports = WorkerReports(Replicas(DEPLOYMENT))

    def start(self, feed: FeedSpec) -> None:
        """See `Feeds.start`. Raises BadInput where the document is no StreamSpec.

        A stream of another digest is drained first, and started by the call that finds it gone: its group keeps its offsets, so
        nothing is lost. A change of input topic or group begins where that group left off.
        """
        spec = _parse(feed)
        running = self._apps().get(feed.app)
        if running is not None:
            if _digest(running) not in (feed.digest, None):
                self.stop(feed.name)
            return
        deployment = serve.deployment(name=DEPLOYMENT, **deployment_options(spec, feed.digest))(StreamReplica)
        bound = deployment.bind(feed.name, feed.document, spec.brokers or self._brokers)
        target = serve.RunTarget(target=bound, name=feed.app, route_prefix=None)
        try:
            serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        except (RayError, RayServeException) as error:
            raise away(error) from error

    def state(self) -> Mapping[str, FeedState]:
        """See `Feeds.state`. READY means that every worker polls its topic, as it said a second ago or so."""
        apps = self._apps()
        reports, seen = self._reports.workers({app: _replicas(details) for app, details in apps.items()}), {}
        for app, details in apps.items():
            name, workers = app.removeprefix(PREFIX), reports.get(app, ())
            state = stream_state(app_state(app, details, DEPLOYMENT), workers, time.time())
            told = tuple(worker.model_dump(mode="json") for worker in workers)
            seen[name] = FeedState(name, _digest(details) or "", state, told)
        return seen

    def stop(self, name: str) -> None:
        """See `Feeds.stop`."""
        app = PREFIX + name
        if app in self._apps():
            try:
                serve.delete(app, _blocking=False)
            except (RayError, RayServeException) as error:
                raise away(error) from error

    def _apps(self) -> dict[str, SeenApp]:
        return {name: app for name, app in serve_details().applications.items() if name.startswith(PREFIX)}


def deployment_options(spec: StreamSpec, digest: str) -> dict[str, Any]:
    """Serve's options for a stream. Pure. The digest travels as user_config, so that Serve itself remembers what runs."""
    most = min(spec.scaling.max, spec.input.most_consumers or spec.scaling.max)
    # Without any consumer nobody would see the lag that calls for one.
    least = min(max(spec.scaling.min, 1), most)
    actor: dict[str, Any] = {"num_cpus": spec.resources.cpus, "num_gpus": spec.resources.gpus}
    if spec.resources.accelerator_type is not None:
        actor["accelerator_type"] = spec.resources.accelerator_type
    if spec.resources.node_labels:
        actor["label_selector"] = dict(spec.resources.node_labels)
    policy = {
        "policy_function": "consumers.stream.serving.autoscale:FollowLag",
        "policy_kwargs": {
            "least": least,
            "most": most,
            "lag_per_replica": spec.scaling.lag_per_replica,
            "calm_s": spec.scaling.calm_s,
        },
    }
    return {
        "user_config": {"digest": digest},
        "max_ongoing_requests": 8,
        "graceful_shutdown_timeout_s": STOP_S + 5,
        "graceful_shutdown_wait_loop_s": 0.1,
        "health_check_period_s": HEALTH_EVERY_S,
        "health_check_timeout_s": 30.0,
        "ray_actor_options": actor,
        "logging_config": {"enable_access_log": False},  # its only calls ask how it is doing, once a second
        "autoscaling_config": AutoscalingConfig(
            min_replicas=least,
            initial_replicas=least,
            max_replicas=most,
            metrics_interval_s=1,
            look_back_period_s=3,
            upscale_delay_s=0,
            downscale_delay_s=0,
            policy=AutoscalingPolicy.model_validate(policy),
        ),
    }


def _replicas(app: SeenApp) -> frozenset[str]:
    """The replicas that work now."""
    details = app.deployments.get(DEPLOYMENT)
    replicas = details.replicas if details is not None else ()
    return frozenset(replica.replica_id for replica in replicas if replica.state == RUNNING)


def _digest(app: SeenApp) -> str | None:
    """The digest that the app runs; None while Serve has not built its deployment yet."""
    details = app.deployments.get(DEPLOYMENT)
    config = details.deployment_config.user_config if details is not None else None
    return str(config["digest"]) if isinstance(config, dict) and "digest" in config else None


def _parse(feed: FeedSpec) -> StreamSpec:
    try:
        return StreamSpec.model_validate_json(feed.document)
    except ValidationError as error:
        raise BadInput(
            str(first_finding(error)), where=f"stream {feed.name}", remedy="correct the Stream document and apply it again"
        ) from error
