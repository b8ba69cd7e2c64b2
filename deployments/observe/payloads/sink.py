"""Where payloads go to: the port, and what opens one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.errors import HeadraceError
from cluster.watch.payloads import PayloadTopic
from deployments.observe.payloads.event import PayloadEvent


@dataclass(frozen=True, slots=True)
class SinkResult:
    """How many events are kept now, and why the others are not."""

    kept: int
    error: HeadraceError | None = None


class PayloadSink(Protocol):
    """One place of one model. Used from one thread, which it may block for as long as it likes."""

    gather_s: float
    """So long events are gathered before they are written together."""

    def write(self, events: Sequence[PayloadEvent]) -> SinkResult:
        """Keeps the events, of one model, none of them twice. What can't be kept is told, never raised; it is not tried again."""

    def close(self) -> None:
        """Lets go of what it holds open."""


OpenTopic = Callable[[PayloadTopic], PayloadSink]
"""Opens the sink of a topic, at once and without asking a broker."""
