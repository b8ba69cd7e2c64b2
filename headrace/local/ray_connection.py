"""Joins the running Ray from a command. The one place of the front door that calls `ray.init`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.errors import Unreachable
from deployments.serving.worker_setup import set_up
from headrace.local.home import Settings
from headrace.local.ports import answers, split_address
from headrace.local.ray_head import ray_environment
from headrace.local.run_state import load_run

NAMESPACE = "headrace"


def ray_address(settings: Settings) -> str:
    """RAY_ADDRESS, else what `headrace up` started. Raises Unreachable where neither is known or nothing answers."""
    run = load_run(settings.home)
    address = settings.ray_address or (run.addresses.ray if run else None)
    if address is None:
        raise Unreachable(
            "no Ray is running", where=str(settings.home.root), remedy="start it with `headrace up`, or set RAY_ADDRESS"
        )
    if address != "auto" and "://" not in address and not answers(*split_address(address), timeout_s=5.0):
        raise Unreachable("Ray does not answer", where=address, remedy="check RAY_ADDRESS, or `headrace down` and `headrace up`")
    return address


@dataclass(frozen=True, slots=True)
class JoinedRay:
    """A Ray that this process is a driver of. `dashboard` is its URL, or None."""

    address: str
    dashboard: str | None


def load_ray(*, own: bool) -> None:
    """Loads Ray, which takes a second; `own`: with the variables of a Ray that we start. Safe to repeat."""
    if own:
        os.environ.update(ray_environment(os.environ))
    for name in ("ray", "ray.serve"):  # what a command has to say it says itself
        logging.getLogger(name).setLevel(logging.ERROR)
    set_up()
    import ray  # noqa: F401 - reads its variables while it is loaded


@contextmanager
def joined_ray(settings: Settings) -> Iterator[JoinedRay]:
    """A Ray driver for as long as the block lasts, in our namespace.

    Sets Ray's variables in this process before Ray is imported: a local Ray listens on loopback, and a driver without
    them would look for it on the machine's outer address.
    """
    address = ray_address(settings)
    run = load_run(settings.home)
    load_ray(own=run is not None and run.owns_ray and run.addresses.ray == address)
    import ray

    try:
        joined = ray.init(
            address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Unreachable(f"Ray can't be joined: {error}", where=address, remedy="check RAY_ADDRESS and Ray's version") from error
    try:
        yield JoinedRay(address, f"http://{joined.dashboard_url}" if joined.dashboard_url else None)
    finally:
        ray.shutdown()
