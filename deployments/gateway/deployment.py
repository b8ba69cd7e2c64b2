"""The gateway as a Serve application: one routed app named `gateway`, each replica with its own scorer and batcher."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from ray import serve

from deployments.control_client import connect
from deployments.gateway.app import GatewayApp
from deployments.gateway.batcher import BatchLimits
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.route_watch import RouteWatch
from deployments.scorer import RoutedScorer

APP = "gateway"
DRAIN_S = 30.0
MAX_BODY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway's size. `max_ongoing` requests are held by one replica at a time; `cpus` are reserved for each."""

    replicas: int = 1
    cpus: float = 1.0
    max_ongoing: int = 1024
    max_body_bytes: int = MAX_BODY_BYTES


class Gateway:
    """One replica: builds its scorer when Serve builds it, starts and stops it with the lifespan of the ASGI server."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> GatewayApp:
        """Called by Serve once, after the constructor, in the replica."""
        control = connect()
        scorer = RoutedScorer(control)
        watch = RouteWatch(control)

        async def startup() -> None:
            await scorer.start()
            await watch.start()

        async def shutdown() -> None:
            await watch.stop()
            await scorer.close()

        return GatewayApp(
            dataplane=DataPlane(scorer, control, watch, BatchLimits()),
            control=control,
            server_version=importlib.metadata.version("headrace"),
            max_body_bytes=self._settings.max_body_bytes,
            startup=startup,
            shutdown=shutdown,
        )


def gateway_application(settings: GatewaySettings) -> Any:
    """The Serve application, ready for `serve.run`."""
    return (
        serve.deployment(serve.ingress()(Gateway))  # type: ignore[no-untyped-call]
        .options(
            name="Gateway",
            num_replicas=settings.replicas,
            max_ongoing_requests=settings.max_ongoing,
            graceful_shutdown_timeout_s=DRAIN_S,
            ray_actor_options={"num_cpus": settings.cpus},
        )
        .bind(settings)
    )


def start_gateway(settings: GatewaySettings | None = None) -> None:
    """Runs the gateway at `/`; returns when it is ready. Run again, it is replaced: only call it where none runs.

    Needs a connected Ray, the controller (deployments.control_client.connect finds it), and Serve with its HTTP options set:
    `serve.start(http_options=...)` decides address and port, and is the front door's. Works behind Serve's proxy and behind
    HAProxy with direct ingress alike. Raises RuntimeError where Serve can't start the replicas.
    """
    serve.run(gateway_application(settings or GatewaySettings()), name=APP, route_prefix="/")
