"""The gateway as a Serve application, `gateway`, without a route: callers come by the door of its node, not by Serve's proxy."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.schema import LoggingConfig

from cluster.errors import BadInput
from cluster.watch.catalogue import CERTIFICATE_EXPIRES, GATEWAYS, REQUESTS_UNDER_WAY
from deployments.control.client import connect
from deployments.gateway.access.guard import Guard
from deployments.gateway.autoscale import REQUESTS, autoscaling
from deployments.gateway.console.batch_runs import BatchLedgers
from deployments.gateway.console.console import ConsoleSettings
from deployments.gateway.console.nodes import RayNodes
from deployments.gateway.console.shared_secret import shared_secret
from deployments.gateway.console.streams import StreamOperations
from deployments.gateway.dataplane import DataPlane
from deployments.gateway.door.certificates import CertificateEnd
from deployments.gateway.door.haproxy import usable_haproxy
from deployments.gateway.door.opening import Door
from deployments.gateway.door.settings import RUN_VARIABLE, DoorSettings, DoorTls, is_loopback
from deployments.gateway.http.callers import Callers
from deployments.gateway.lanes import BatchLimits
from deployments.gateway.repository import Repository
from deployments.gateway.server import GatewayServer, ServerLimits
from deployments.observe.logs.set_up import log_with_serve
from deployments.observe.meters import Meters
from deployments.observe.payloads.log import PayloadLog
from deployments.observe.payloads.sink import OpenTopic
from deployments.observe.traces.opening import tracer_of
from deployments.observe.traces.settings import TraceSettings
from deployments.observe.traces.tracer import Tracer
from deployments.scoring.scorer import RoutedScorer
from deployments.serving.collector import spare_collections
from deployments.serving.serve_controller import GATEWAY_APP
from deployments.transport.remote import RemoteTransport

_log = logging.getLogger(__name__)

APP = GATEWAY_APP
DEPLOYMENT = "Gateway"
DRAIN_S = 30.0
TRACED_AS = "headrace-gateway"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """All gateways of a cluster: `replicas`, or by load up to `most`. In one are `max_ongoing` requests at a time, as many more
    wait there, and the rest is refused.

    The door of each node that has a gateway listens at `host`, without a `grpc_port` for HTTP alone, and speaks TLS with files of
    its node that `tls` names. `node` is the address of the only Ray node that may have gateways; None: any. `resource` names one
    of Ray's that nodes must have for them, a unit each; None: they need none. `cpus` reserves none
    unless told to: a full cluster still has a door. `hosts` are the names, beside its nodes' own, by which commands may be given:
    see `Callers`. Who brings no key may score and see on loopback, and elsewhere where it is `insecure`, as long as no Access
    document was applied. Of the byte limits two bound one message each, and the last all that are in one gateway. What
    `payload_topics` names opens topics for payload logs, and what `streams` names acts on streams for the console, both as
    `module:function`; what `batch_ledgers` names reads the runs of batches for the console, as `module:class`; None: there are
    none. `traces` says where traces go; None: where the environment of their process says.
    """

    replicas: int = 1
    most: int | None = None
    node: str | None = None
    resource: str | None = None
    cpus: float = 0.0
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int | None = None
    tls: DoorTls | None = None
    hosts: tuple[str, ...] = ()
    insecure: bool = False
    max_ongoing: int = 1024
    max_body_bytes: int = 256 << 20
    max_grpc_message_bytes: int = 256 << 20
    max_buffered_bytes: int = 1 << 30
    payload_topics: str | None = None
    batch_ledgers: str | None = None
    streams: str | None = None
    traces: TraceSettings | None = None

    @property
    def visitors(self) -> bool:
        """Whether callers without a key are let in, as long as no Access document says otherwise."""
        return self.insecure or is_loopback(self.host)

    @property
    def door(self) -> dict[str, Any]:
        """Where callers come in, as Serve remembers it."""
        door = {"host": self.host, "http_port": self.http_port, "grpc_port": self.grpc_port}
        # Without TLS as versions without it have written it: they may have started what runs.
        if self.tls is None:
            return door
        return {**door, "tls": {**asdict(self.tls), "client_certificates": self.tls.client_certificates.value}}


class Gateway:
    """One replica: opens for callers when Serve builds it, and leaves in order when Serve lets it go."""

    async def __init__(self, settings: GatewaySettings) -> None:  # type: ignore[misc]  # Serve awaits it
        log_with_serve()
        self._settings = settings
        self._server: GatewayServer | None = None
        self._scorer: RoutedScorer | None = None
        self._door: Door | None = None
        self._tracer: Tracer | None = None
        self._certificate = CertificateEnd(Path(settings.tls.certificate)) if settings.tls is not None else None
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise

    def reconfigure(self, door: dict[str, Any]) -> None:
        """Called by Serve, which keeps `GatewaySettings.door` for those who ask; nothing changes while a gateway runs."""

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve: how many requests are under way."""
        return {REQUESTS: 0.0 if self._server is None else float(self._server.requests_under_way)}

    async def __del__(self) -> None:
        """Called by Serve, once."""
        await self._close()

    async def _open(self) -> None:
        settings, control = self._settings, connect()
        meters = Meters()
        payloads = PayloadLog(meters, named_opener(settings.payload_topics))
        self._tracer = tracer_of(settings.traces, meters, TRACED_AS)
        self._scorer = RoutedScorer(control, RemoteTransport(for_life=True), meters=meters, payloads=payloads)
        binary = await asyncio.to_thread(usable_haproxy)
        if binary is not None:
            node = ray.get_runtime_context().get_node_id()
            self._door = await asyncio.to_thread(Door.enter, door_settings(settings, str(binary)), node)
        elif settings.tls is not None:
            raise BadInput("without HAProxy there is no TLS", where="--tls-cert", remedy="run where HAProxy can")
        limits = ServerLimits(
            max_requests=2 * settings.max_ongoing,
            max_body_bytes=settings.max_body_bytes,
            max_message_bytes=settings.max_grpc_message_bytes,
            max_buffered_bytes=settings.max_buffered_bytes,
        )
        self._server = GatewayServer(
            DataPlane(
                self._scorer,
                BatchLimits(),
                None if self._door is None else self._door.other_gateways(),
                meters,
                payloads,
                self._tracer,
            ),
            Repository(self._scorer, control),
            control,
            Guard(self._scorer, visitors=settings.visitors, meters=meters),
            importlib.metadata.version("headrace"),
            Callers.to(*settings.hosts),
            limits,
            ConsoleSettings(
                shared_secret(os.environ),
                RayNodes(),
                named_operations(settings.streams),
                named_ledgers(settings.batch_ledgers),
                meters.uses,
            ),
        )
        meters.before_each_report(self._gauges)
        meters.uses.stays(f"gateway {os.getpid()} of node {ray.get_runtime_context().get_node_id()[:12]}")
        await self._scorer.start()
        spare_collections()
        if self._door is None:
            await self._server.listen(settings.host, settings.http_port, settings.grpc_port)
            _log.warning("without HAProxy, requests are served more slowly, and on loopback alone")
        else:
            self._door.watch(ray.get_runtime_context().get_node_id()[:12], meters)
            await self._server.start(self._door.slot)
            await self._door.opened()

    def _gauges(self, meters: Meters) -> None:
        meters.put(GATEWAYS, 1)
        if self._certificate is not None and (ends_s := self._certificate.ends_s()) is not None:
            meters.put(CERTIFICATE_EXPIRES, ends_s, ray.get_runtime_context().get_node_id()[:12])
        meters.put(REQUESTS_UNDER_WAY, 0 if self._server is None else self._server.requests_under_way)

    async def _close(self) -> None:
        """In order, the server first, and each whatever becomes of those before it. Raises what the last that failed does."""
        async with contextlib.AsyncExitStack() as ending:
            if self._scorer is not None:
                ending.push_async_callback(self._scorer.close)
            if self._tracer is not None:
                ending.push_async_callback(asyncio.to_thread, self._tracer.close)
            if self._door is not None:
                ending.push_async_callback(self._door.leave)
            if self._server is not None:
                ending.push_async_callback(self._server.stop, DRAIN_S / 2)


def named_opener(name: str | None) -> OpenTopic | None:
    """What opens topics for payload logs, by its `module:function`: it lives above this room."""
    opener: OpenTopic | None = _named(name)
    return opener


def named_ledgers(name: str | None) -> Callable[[], BatchLedgers] | None:
    """What makes the reader of batches' runs, by its `module:class`, which is imported then: it lives above this room."""
    return None if name is None else lambda: _named(name)()


def named_operations(name: str | None) -> StreamOperations | None:
    """What acts on streams, made by its `module:function`: it lives above this room."""
    opener = _named(name)
    operations: StreamOperations | None = None if opener is None else opener()
    return operations


def _named(name: str | None) -> Any:
    if name is None:
        return None
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def door_settings(settings: GatewaySettings, binary: str) -> DoorSettings:
    """The door of this process's node, which ends with the node's Ray: the parent of this process."""
    return DoorSettings(
        binary=binary,
        host=settings.host,
        http_port=settings.http_port,
        grpc_port=settings.grpc_port,
        slots=slots_for(settings.most or settings.replicas),
        threads=haproxy_threads(len(os.sched_getaffinity(0))),
        concurrent_streams=2 * settings.max_ongoing,
        raylet_pid=os.getppid(),
        run=os.environ.get(RUN_VARIABLE, ""),
        tls=settings.tls,
    )


def slots_for(gateways: int) -> int:
    """Places on a node where all gateways may be, and those that replace them may have begun. Pure."""
    return max(4, 2 * gateways)


def haproxy_threads(cores: int) -> int:
    """One thread passes 30,000 requests/s on, and more than one for two cores only wake each other. Pure."""
    return max(1, min(4, cores // 2))


def gateway_application(settings: GatewaySettings) -> Any:
    """The Serve application, ready for `serve.run`."""
    actor: dict[str, Any] = {"num_cpus": settings.cpus}
    if settings.node is not None:
        actor["resources"] = {f"node:{settings.node}": 0.001}  # which that node alone has, from Ray
    if settings.resource is not None:
        actor["resources"] = {settings.resource: 1.0}
    options: dict[str, Any] = {
        "name": DEPLOYMENT,
        "user_config": settings.door,
        "graceful_shutdown_timeout_s": DRAIN_S,
        "graceful_shutdown_wait_loop_s": 0.1,
        "ray_actor_options": actor,
        "logging_config": LoggingConfig(log_level="WARNING", enable_access_log=False),
    }
    if settings.most is None or settings.most == settings.replicas:
        options["num_replicas"] = settings.replicas
    else:
        options["autoscaling_config"] = autoscaling(settings.replicas, settings.most)
    deployment: Any = serve.deployment(**options)(Gateway)
    return deployment.bind(settings)


def start_gateway(settings: GatewaySettings | None = None) -> None:
    """Runs the gateways; returns when their doors are open. Run again, they are replaced: only call it where none runs.

    Needs a connected Ray, the controller (deployments.control.client.connect finds it), and Serve, with or without own proxies.
    Raises RuntimeError where Serve can't start the replicas.
    """
    serve.run(gateway_application(settings or GatewaySettings()), name=APP, route_prefix=None)
