"""The gateway as a Serve application: one routed app named `gateway`, each replica with its own scorer and batcher."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve.schema import LoggingConfig

from deployments.control.client import connect
from deployments.gateway.batcher import BatchLimits
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.grpc.front import haproxy
from deployments.gateway.grpc.server import GrpcServer
from deployments.gateway.http.app import GatewayApp
from deployments.gateway.http.callers import Callers
from deployments.gateway.http.direct_lane import DirectLane
from deployments.gateway.repository import Repository
from deployments.scoring.scorer import RoutedScorer
from deployments.serving.collector import spare_collections
from deployments.serving.serve_log import log_with_serve
from deployments.transport.remote import RemoteTransport

APP = "gateway"
DRAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway. `max_ongoing` requests are in one replica at a time, as many more wait before it, the rest is refused.

    `cpus` only reserve a place for each replica: little, so that a full cluster still has a door. With a `grpc_port`, each node
    that has a replica listens there; without, there is no gRPC. The two byte limits bound one message each. `hosts` are the
    names, beside its nodes' own, by which commands may be given: see `Callers`.
    """

    replicas: int = 1
    cpus: float = 0.1
    max_ongoing: int = 1024
    max_body_bytes: int = 256 << 20
    grpc_host: str = "127.0.0.1"
    grpc_port: int | None = None
    max_grpc_message_bytes: int = 256 << 20
    hosts: tuple[str, ...] = ()


class Gateway:
    """One replica: builds its scorer when Serve builds it, starts and stops it with the lifespan of the ASGI server."""

    def __init__(self, settings: GatewaySettings) -> None:
        log_with_serve()
        self._settings = settings

    def __serve_build_asgi_app__(self) -> GatewayApp:
        """Called by Serve once, after the constructor, in the replica."""
        settings, control = self._settings, connect()
        version = importlib.metadata.version("headrace")
        scorer = RoutedScorer(control, RemoteTransport(for_life=True))
        dataplane = DataPlane(scorer, control, BatchLimits())
        repository = Repository(scorer, control)
        limits = settings.max_grpc_message_bytes, settings.max_ongoing
        front = None if settings.grpc_port is None else haproxy()
        grpc_server = GrpcServer(dataplane, repository, version, *limits, front)

        async def startup() -> None:
            await scorer.start()
            spare_collections()
            await lane.open()
            if settings.grpc_port is not None:
                await grpc_server.start(settings.grpc_host, settings.grpc_port)

        async def shutdown() -> None:
            await grpc_server.stop(DRAIN_S / 2)
            await lane.close()
            await scorer.close()

        callers = Callers.to(*settings.hosts)
        app = GatewayApp(dataplane, repository, control, version, settings.max_body_bytes, startup, shutdown, callers)
        lane = DirectLane(app, app.infer, 2 * settings.max_ongoing)
        return app


def gateway_application(settings: GatewaySettings) -> Any:
    """The Serve application, ready for `serve.run`."""
    deployment: Any = serve.deployment(
        name="Gateway",
        num_replicas=settings.replicas,
        max_ongoing_requests=settings.max_ongoing,
        max_queued_requests=settings.max_ongoing,
        graceful_shutdown_timeout_s=DRAIN_S,
        ray_actor_options={"num_cpus": settings.cpus},
        # No line a request: Serve's metrics count them.
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )(serve.ingress()(Gateway))
    return deployment.bind(settings)


def start_gateway(settings: GatewaySettings | None = None) -> None:
    """Runs the gateway at `/`; returns when it is ready. Run again, it is replaced: only call it where none runs.

    Needs a connected Ray, the controller (deployments.control.client.connect finds it), and Serve with its HTTP options set:
    `serve.start(http_options=...)` decides address and port, and is the front door's. Works behind Serve's proxy and behind
    HAProxy with direct ingress alike. Raises RuntimeError where Serve can't start the replicas.
    """
    serve.run(gateway_application(settings or GatewaySettings()), name=APP, route_prefix="/")
