"""What runs inside Ray: Serve, the controller, the gateway. Imports Ray: import it inside `joined_ray` only."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus

from cluster.errors import Conflict, Unreachable
from deployments.control.client import CONTROLLER_ACTOR, NAMESPACE
from deployments.gateway.deployment import APP, GatewaySettings, start_gateway
from deployments.serving.serve_controller import serve_details

POLL_S = 0.1


def start_serve(host: str, http_port: int) -> None:
    """Starts Serve on the cluster, its proxy on the head node; nothing happens where Serve runs.

    Raises Conflict where it runs and listens on another port, Unreachable where it does not start.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # importing Serve has set it to INFO
    try:
        serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(host=host, port=http_port))
    except (RuntimeError, TimeoutError) as error:
        said = str(error).strip().splitlines()[-1:]  # what comes from an actor ends with its own words
        raise Unreachable(
            f"Serve does not start: {''.join(said)}", where=f"{host}:{http_port}", remedy="look into Ray's logs"
        ) from error
    found = serve_details().http_options
    if found is not None and found.port != http_port:
        raise Conflict(
            f"Serve runs on this cluster already, on port {found.port}",
            where=f"--http-port {http_port}",
            remedy=f"give `--http-port {found.port}`, or shut that Serve down",
        )


def ensure_gateway(host: str, grpc_port: int, hosts: Sequence[str] = ()) -> None:
    """Runs the gateway, with gRPC on that port, unless it runs; returns when it is ready. It takes commands by the names `hosts`
    too. Raises Unreachable where it fails."""
    found = serve.status().applications.get(APP)
    if found is not None and found.status is ApplicationStatus.RUNNING:
        return
    try:
        start_gateway(GatewaySettings(grpc_host=host, grpc_port=grpc_port, hosts=(host, *hosts)))
    except RuntimeError as error:
        raise Unreachable(
            f"the gateway does not start: {error}", where="gateway", remedy="read its log in the Ray dashboard"
        ) from error


def stop_services() -> None:
    """Ends the controller, then drains and removes our apps; shuts Serve down where no other app is left.

    The versions go last: the streams and the gateway score with them until they have answered all that they took.
    """
    with contextlib.suppress(ValueError):  # no such actor
        ray.kill(ray.get_actor(CONTROLLER_ACTOR, namespace=NAMESPACE), no_restart=True)
    apps = list(serve.status().applications)
    callers = [app for app in apps if app == APP or app.startswith("stream--")]
    for ours in (callers, [app for app in apps if "--v" in app and app not in callers]):
        for app in ours:
            serve.delete(app, _blocking=False)
        while set(ours) & set(serve.status().applications):
            time.sleep(POLL_S)  # bounded by whoever started this process
    if not serve.status().applications:
        serve.shutdown()  # type: ignore[no-untyped-call]
