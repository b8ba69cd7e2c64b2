"""What runs inside Ray: Serve, the controller, the gateway. Imports Ray: import it inside `joined_ray` only."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import Conflict, Unreachable
from consumers.stream.operate.from_gateways import OPERATOR_ACTOR
from deployments.control.client import CONTROLLER_ACTOR, NAMESPACE
from deployments.gateway.deployment import APP, DEPLOYMENT, GatewaySettings, gateway_application
from deployments.gateway.door.opening import close_door
from deployments.gateway.door.slots import folder_of
from deployments.serving.serve_controller import SeenApp, serve_details
from deployments.serving.serve_state import app_state
from headrace.local.options import LOOPBACK, UpOptions

POLL_S = 0.1
RESTS_WITHIN_S = 10.0  # a tick that starts replicas may take seconds
CLOSING_S = 20.0
# Serve starts a replica that ended again, for as long as it takes.
KEPT_UP = (ApplicationStatus.RUNNING, ApplicationStatus.DEPLOYING, ApplicationStatus.UNHEALTHY)
PAYLOAD_TOPICS = "consumers.stream.payloads.topic_sink:open_topic"
BATCH_LEDGERS = "consumers.batch.runs_seen:LedgerRuns"
STREAM_OPERATIONS = "consumers.stream.operate.from_gateways:open_operations"
EVERYWHERE = "0.0.0.0"  # noqa: S104 (compared)


def start_serve() -> None:
    """Starts Serve on the cluster without a proxy of its own; nothing happens where Serve runs. Raises Unreachable."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # importing Serve has set it to INFO
    try:
        serve.start(proxy_location="Disabled")
    except (RuntimeError, TimeoutError) as error:
        said = str(error).strip().splitlines()[-1:]  # what comes from an actor ends with its own words
        raise Unreachable(f"Serve does not start: {''.join(said)}", where="ray serve", remedy="look into Ray's logs") from error


def gateway_settings(options: UpOptions) -> GatewaySettings:
    """The gateways that `headrace up` was asked for."""
    return GatewaySettings(
        replicas=options.gateways,
        most=options.most_gateways,
        node=None if options.gateways_on else node_for(options.host, options.most_gateways),
        resource=options.gateways_on or None,
        host=options.host,
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        tls=options.tls,
        hosts=(options.host, *options.hosts),
        insecure=options.insecure,
        payload_topics=PAYLOAD_TOPICS,
        batch_ledgers=BATCH_LEDGERS,
        streams=STREAM_OPERATIONS,
        traces=options.trace_settings,
    )


def ask_for_gateway(settings: GatewaySettings) -> None:
    """Has the gateways run unless Serve has them: what it has, it keeps up, and to run them again would end those that serve.

    Does not wait. Raises Conflict where they listen elsewhere, Unreachable.
    """
    found = serve_details().applications.get(APP)
    if found is not None and found.status in KEPT_UP:
        _check_door(found, settings)
        return
    target = serve.RunTarget(target=gateway_application(settings), name=APP, route_prefix=None)
    try:
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    except (RuntimeError, RayError, RayServeException) as error:
        raise _no_gateway(str(error)) from error


def await_gateway_app() -> None:
    """Returns once Serve has the gateways, however long they take. Raises Unreachable where they fail."""
    while True:
        app = serve_details().applications.get(APP)
        if app is None or app.status is ApplicationStatus.DEPLOY_FAILED:
            raise _no_gateway(app_state(APP, app, DEPLOYMENT).message if app is not None else "somebody has removed it")
        if app.status is not ApplicationStatus.DEPLOYING:
            return
        time.sleep(POLL_S)  # Serve tells nobody when it has


def _no_gateway(why: str) -> Unreachable:
    return Unreachable(f"the gateway does not start: {why}", where="gateway", remedy="read its log in the Ray dashboard")


def _check_door(app: SeenApp, wanted: GatewaySettings) -> None:
    seen = app.deployments.get(DEPLOYMENT)
    door = seen.deployment_config.user_config if seen is not None else None
    if not isinstance(door, dict) or door == wanted.door:
        return
    same = f"--host {door['host']} --http-port {door['http_port']} --grpc-port {door['grpc_port']}{_tls_words(door)}"
    raise Conflict(
        f"the gateway runs on this cluster already, at {door['host']}:{door['http_port']}{', with TLS' if 'tls' in door else ''}",
        where=f"--http-port {wanted.http_port}",
        remedy=f"give `{same}`, or end it with `headrace down` where it was started",
    )


def _tls_words(door: dict[str, Any]) -> str:
    """The options for TLS that a running gateway has. Pure."""
    tls = door.get("tls")
    if tls is None:
        return ""
    words = f" --tls-cert {tls['certificate']} --tls-key {tls['key']}"
    return words + (f" --client-ca {tls['client_ca']} --client-certs {tls['client_certificates']}" if tls["client_ca"] else "")


def node_for(host: str, most: int) -> str | None:
    """The address of the Ray node whose door is at `host`: the only one that may have gateways. None: any may."""
    if host == EVERYWHERE and most > 1:
        return None
    here, nodes = ray.get_runtime_context().get_node_id(), _nodes()
    return host if host in nodes.values() else nodes[here]


def door_address(host: str) -> str:
    """Where a door can be reached: on this node where it has one, else on another that has."""
    if host != EVERYWHERE:
        return host
    here, nodes = ray.get_runtime_context().get_node_id(), _nodes()
    app = serve_details().applications.get(APP)
    seen = app.deployments.get(DEPLOYMENT) if app is not None else None
    having = [replica.node_id for replica in (seen.replicas if seen is not None else []) if replica.node_id in nodes]
    return LOOPBACK if here in having or not having else nodes[having[0]]


def stop_services() -> None:
    """Has the controller do nothing more, then drains and removes our apps, whose last counts it still takes, and ends it; shuts
    Serve down where no other app is left.

    The versions go last: the streams and the gateway score with them until they have answered all that they took.
    """
    _end(OPERATOR_ACTOR)
    if not _rests():
        _end(CONTROLLER_ACTOR)
    apps = list(serve.status().applications)
    callers = [app for app in apps if app == APP or app.startswith("stream--")]
    for ours in (callers, [app for app in apps if "--v" in app and app not in callers]):
        for app in ours:
            serve.delete(app, _blocking=False)
        while set(ours) & set(serve.status().applications):
            time.sleep(POLL_S)  # bounded by whoever started this process
    _end(CONTROLLER_ACTOR)
    close_doors()
    if not serve.status().applications:
        serve.shutdown()  # type: ignore[no-untyped-call]


def _rests() -> bool:
    """Whether the controller does nothing more, and takes what it is told; where it can't say so, it has to go at once."""
    try:
        controller: Any = ray.get_actor(CONTROLLER_ACTOR, namespace=NAMESPACE)
        ray.get(controller.rest.remote(), timeout=RESTS_WITHIN_S)
    except (ValueError, AttributeError, RayError):  # there is none, it is of an earlier release, or it does not answer
        return False
    return True


def _end(actor: str) -> None:
    with contextlib.suppress(ValueError):  # no such actor
        ray.kill(ray.get_actor(actor, namespace=NAMESPACE), no_restart=True)


def close_doors() -> None:
    """Ends the keepers of all nodes, which would wait a minute for another gateway. Returns when they have ended, or soon."""
    nodes = _nodes()
    machines = {str(address) for address in nodes.values()}
    here = [node for node in nodes if folder_of(node).exists()]
    # A node on this machine needs no process of Ray's for it. One elsewhere has no folder here, and nor has one without a door.
    elsewhere = [node for node in nodes if node not in here] if len(machines) > 1 else []
    task: Any = ray.remote(num_cpus=0)(_close_door_here)
    asked = [task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in elsewhere]
    for node in here:
        close_door(node)
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=CLOSING_S)


def _nodes() -> dict[str, str]:
    """Addresses of the nodes that live, by id."""
    seen: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {str(node["NodeID"]): str(node["NodeManagerAddress"]) for node in seen if node["Alive"]}


def _close_door_here() -> None:
    close_door(ray.get_runtime_context().get_node_id())
