"""Models that sleep, for figures of many nodes on a machine of few cores: what is scored at a time is bounded by a node alone.

Whatever sleeps on one node does so in turn, in whichever process, as if the node had one core: two replicas on one node are no
quicker than one, so that what is badly placed shows.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path

from cluster.signature import Signature
from deployments.engines.datatypes import Array
from deployments.engines.port import Engine

# Of every process of the Ray: where nodes keep their turns.
TURNS_VARIABLE = "HEADRACE_BENCH_TURNS"
ROW_S = 0.1


class NodeTurns:
    """One at a time on this node. Used from one thread at a time, where Ray is connected."""

    def __init__(self) -> None:
        import ray  # a bench sets its variables first

        node = ray.get_runtime_context().get_node_id()
        self._file = (Path(os.environ[TURNS_VARIABLE]) / node).open("w")

    def sleep(self, seconds: float) -> None:
        """Waits for the turn, and sleeps in it."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            time.sleep(seconds)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


class SleepingEngine:
    """Implements `Engine` by another, before which it sleeps ROW_S for each row."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._turns = engine, NodeTurns()

    @property
    def signature(self) -> Signature:
        """See `Engine.signature`."""
        return self._engine.signature

    def score(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """See `Engine.score`."""
        self._turns.sleep(ROW_S * len(next(iter(tensors.values()))))
        return self._engine.score(tensors)
