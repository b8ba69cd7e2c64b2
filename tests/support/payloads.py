"""Predictions for the payload log, and sinks that misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np

from cluster.errors import EngineFailure, Unreachable
from cluster.watch.catalogue import ScoringWay
from deployments.observe.meters import Meters
from deployments.observe.payloads.event import PayloadEvent, PayloadOutcome
from deployments.observe.payloads.sink import SinkResult


def payload_event(number: int, *, rows: int = 2, failed: bool = False, version: int = 3, model: str = "digits") -> PayloadEvent:
    """Its id is `in/0/NUMBER`; input x is [rows, 3], all NUMBER; output sum is [rows]."""
    x = np.full((rows, 3), number, np.float32)
    return PayloadEvent(
        f"in/0/{number}",
        time.time(),
        ScoringWay.STREAM,
        model,
        version,
        PayloadOutcome.ERROR if failed else PayloadOutcome.OK,
        100.0,
        {"x": x},
        None if failed else {"sum": x.sum(axis=1)},
        np.full(rows, version, np.int32),
        error=EngineFailure("").kind if failed else "",
        request_id="7",
        label_keys=["k/1"] * rows,
    )


class MemorySink:
    """Implements PayloadSink: keeps all in a list."""

    gather_s = 0.01

    def __init__(self) -> None:
        self.events: list[PayloadEvent] = []
        self.closed = False

    def write(self, events: Sequence[PayloadEvent]) -> SinkResult:
        self.events += events
        return SinkResult(len(events))

    def close(self) -> None:
        self.closed = True


class HangingSink(MemorySink):
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.entered = threading.Event()

    def write(self, events: Sequence[PayloadEvent]) -> SinkResult:
        self.entered.set()
        self.go_on.wait(60)
        return super().write(events)


class AwaySink(MemorySink):
    """Can't keep anything."""

    def write(self, events: Sequence[PayloadEvent]) -> SinkResult:
        return SinkResult(0, Unreachable("it is away", where="topic t", remedy="bring it back"))


class CountingMeters(Meters):
    """Tells what was counted, by outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: dict[str, float] = {}

    def add(self, metric: object, count: float, *labels: str) -> None:  # type: ignore[override]
        self.counted[labels[-1]] = self.counted.get(labels[-1], 0) + count
