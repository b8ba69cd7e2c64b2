"""A model whose rows are told to a controller over fakes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.brain import SURE, Brain
from tests.support.drift import NumberRows, normal

TICK_S = 10.5
ROWS = 1000


class Watched:
    """Version 1 of `digits` serves, and its rows are told to the controller."""

    def __init__(self, **drift: Any) -> None:
        self.brain = Brain()
        self.rng = np.random.default_rng(7)
        self.rows = NumberRows(normal(self.rng, 5000, 3), answers=1)
        self.sequence = 0
        self.brain.build(1)
        self.apply(**drift)
        self.brain.tick(4)

    def apply(self, **drift: Any) -> None:
        document = {"name": "digits", "rollout": SURE, "serving": {}, "drift": drift or None}
        self.brain.call("apply", models=[document])

    def tell(self, *means: float, version: int = 1, times: int = 1) -> None:
        for _ in range(times):
            self.sequence += 1
            report = self.rows.report(normal(self.rng, ROWS, 3, means or (0.0,)), self.sequence, version=version)
            self.brain.controller.push(report)
            self.brain.tick(each_s=TICK_S)

    def prove(self) -> None:
        """All evidence that the rollout under way asks for."""
        self.brain.score(1, rows=9000)
        self.brain.score(2, rows=1000)
        self.brain.tick(11)
        self.brain.score(2, rows=1000)
        self.brain.tick(11)

    def status(self) -> dict[str, Any]:
        model: dict[str, Any] = self.brain.call("drift.status", model="digits")["models"][0]
        return model

    def alarmed(self) -> list[str]:
        return sorted(alarm["size"]["feature"] for alarm in self.status()["alarms"])
