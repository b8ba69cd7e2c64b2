"""The scorer's figures for Prometheus, through Ray's metrics: its node agents export them with a `ray_` prefix.

headrace_rows_total{model, version}            rows scored
headrace_row_errors_total{model, version}      rows that the version failed
headrace_fallback_rows_total{model, version}   rows of a candidate that the stable version answered instead
headrace_call_seconds{model, version}          how long a version's answer to one batch took
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ray.util.metrics import Counter, Histogram

_TAGS = ("model", "version")
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


class RayMeter:
    """Implements `Meter`. Without a connected Ray nobody collects the figures, and nothing else happens."""

    def scored(self, model: str, version: int, rows: int, failed: int, seconds: float) -> None:
        """See `Meter.scored`."""
        tags = {"model": model, "version": str(version)}
        instruments = _instruments()
        instruments.rows.inc(rows, tags)
        instruments.seconds.observe(seconds, tags)
        if failed:
            instruments.errors.inc(failed, tags)

    def fell_back(self, model: str, version: int, rows: int) -> None:
        """See `Meter.fell_back`."""
        _instruments().fallback.inc(rows, {"model": model, "version": str(version)})
