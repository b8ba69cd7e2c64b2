"""The product's fleet, of replicas whose models sleep."""

from __future__ import annotations

from typing import Any

from bench.sleeping import SleepingEngine
from deployments.serving.fleet import ServeFleet
from deployments.serving.replica import Replica


class SleepingReplica(Replica):
    """The product's, around an engine that sleeps."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._engine = SleepingEngine(self._engine)


class SleepingFleet(ServeFleet):
    """Of such replicas."""

    replica = SleepingReplica
