"""A replica tells that it has loaded its version: that is how restarts are seen."""

from __future__ import annotations

import asyncio
import logging

from ray import serve

from cluster.errors import HeadraceError
from cluster.versions import VersionId
from cluster.watch.catalogue import LOAD_SECONDS, REPLICA_STARTS
from deployments.control.client import connect
from deployments.observe.meters import Meters

TRIES = 30  # a controller that is being restarted is back in seconds
PAUSE_S = 1.0

_log = logging.getLogger(__name__)


async def tell_loaded(seconds: float) -> None:
    """Once, whenever the controller is there; never raises but where it is cancelled."""
    version = VersionId.of_app(serve.get_replica_context().app_name)
    if version is None:
        return
    meters, labels = Meters(), (version.model, str(version.number))
    meters.add(REPLICA_STARTS, 1, *labels)
    meters.observe(LOAD_SECONDS, seconds, *labels)
    report = meters.next_report()
    if report is None:
        return
    control = connect()
    for _ in range(TRIES):
        try:
            await control.push(report)
        except HeadraceError:
            await asyncio.sleep(PAUSE_S)
        else:
            return
    _log.info("nobody could be told that %s was loaded", version)
