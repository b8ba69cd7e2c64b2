"""The scorer's figures for Ray's dashboard, through Ray's metrics. Those for operators are `scorer_meter's`.

headrace_rows_total{model, version}            rows scored
headrace_row_errors_total{model, version}      rows that the version failed
headrace_fallback_rows_total{model, version}   rows of a candidate that the stable version answered instead
headrace_call_seconds{model, version}          how long a version's answer to one batch took
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, field

from ray.util.metrics import Counter, Histogram

_TAGS = ("model", "version")
TOLD_AFTER_S = 0.25
_BOUNDS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]


@dataclass(frozen=True, slots=True)
class _Instruments:
    rows: Counter
    errors: Counter
    fallback: Counter
    seconds: Histogram


@functools.cache
def _instruments() -> _Instruments:
    """Ray knows a metric by its name, once a process."""
    return _Instruments(
        Counter("headrace_rows_total", "Rows scored.", _TAGS),
        Counter("headrace_row_errors_total", "Rows that the version failed.", _TAGS),
        Counter("headrace_fallback_rows_total", "Rows of a candidate that the stable version answered instead.", _TAGS),
        Histogram("headrace_call_seconds", "How long a version's answer to one batch took.", _BOUNDS_S, _TAGS),
    )


@dataclass(slots=True)
class _Tally:
    """Of one version, since Ray was told last."""

    rows: int = 0
    failed: int = 0
    fell_back: int = 0
    seconds: list[float] = field(default_factory=list)


class RayMeter:
    """Implements `Meter`. Without a connected Ray nobody collects the figures, and nothing else happens.

    Ray takes 10 us to record anything: it is told a few times a second, with sums where it takes them.
    """

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, int], _Tally] = {}

    def scored(self, model: str, version: int, rows: int, failed: int, seconds: float, *, refused: int = 0) -> None:  # noqa: ARG002
        """See `Meter.scored`. Called on an event loop."""
        tally = self._of(model, version)
        tally.rows += rows
        tally.failed += failed
        tally.seconds.append(seconds)

    def shadowed(self, model: str, version: int, rows: int, failed: int, seconds: float) -> None:
        """See `Meter.shadowed`. Called on an event loop."""
        self.scored(model, version, rows, failed, seconds)

    def missed(self, model: str, version: int, rows: int) -> None:
        """See `Meter.missed`. The dashboard shows no such rows."""

    def fell_back(self, model: str, version: int, rows: int) -> None:
        """See `Meter.fell_back`. Called on an event loop."""
        self._of(model, version).fell_back += rows

    def _of(self, model: str, version: int) -> _Tally:
        found = self._tallies.get((model, version))
        if found is None:
            if not self._tallies:
                asyncio.get_running_loop().call_later(TOLD_AFTER_S, self._tell)
            found = self._tallies[model, version] = _Tally()
        return found

    def _tell(self) -> None:
        tallies, self._tallies = self._tallies, {}
        instruments = _instruments()
        for (model, version), tally in tallies.items():
            tags = {"model": model, "version": str(version)}
            for counter, count in (
                (instruments.rows, tally.rows),
                (instruments.errors, tally.failed),
                (instruments.fallback, tally.fell_back),
            ):
                if count:
                    counter.inc(count, tags)
            for seconds in tally.seconds:
                instruments.seconds.observe(seconds, tags)
