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
from headrace.local.ray.head import ray_environment
from headrace.local.ray.token import joined_environment, set_variables
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


def prepare_ray(settings: Settings) -> str:
    """Sets Ray's variables in this process, for what this run joins, and returns its address. Call it before Ray is imported.

    Raises Unreachable where no Ray is known or nothing answers.
    """
    address = ray_address(settings)
    run = load_run(settings.home)
    if settings.ray_address is None or (run is not None and run.owns_ray and run.addresses.ray == address):
        set_variables(ray_environment(os.environ, settings.home))
    else:
        set_variables(joined_environment(os.environ))
    return address


def load_ray() -> None:
    """Loads Ray, which takes a second, and reads its variables then. Safe to repeat."""
    for name in ("ray", "ray.serve"):  # what a command has to say it says itself
        logging.getLogger(name).setLevel(logging.ERROR)
    set_up()
    import ray  # noqa: F401


@contextmanager
def joined_ray(settings: Settings) -> Iterator[JoinedRay]:
    """A Ray driver for as long as the block lasts, in our namespace.

    Sets Ray's variables in this process before Ray is imported: a local Ray listens on loopback, and a driver without
    them would look for it on the machine's outer address.
    """
    address = prepare_ray(settings)
    load_ray()
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
