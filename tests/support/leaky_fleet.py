"""A fleet on Serve whose replicas of some versions never give memory back: no ONNX or torch program can be made to leak."""

from __future__ import annotations

import numpy as np

from cluster.fleet.serving import Serving
from cluster.versions import Version
from deployments.engines.datatypes import Array
from deployments.serving.fleet import ServeFleet
from deployments.serving.replica import Replica, Reply

LEAKS = "leaks"  # in an artifact's address
LEAK_BYTES = 40_000_000


class LeakyReplica(Replica):
    """Keeps something of each call."""

    async def score(self, tensors: dict[str, Array], timeout_s: float) -> Reply:
        kept: list[Array] = self.__dict__.setdefault("kept", [])
        kept.append(np.ones(LEAK_BYTES, np.uint8))
        return await super().score(tensors, timeout_s)


class LeakyFleet(ServeFleet):
    """Called from the controller's one thread."""

    def deploy(self, version: Version, serving: Serving, replicas: int) -> None:
        self.replica = LeakyReplica if LEAKS in version.artifact_uri else Replica
        super().deploy(version, serving, replicas)
