"""A scorer's figures: as Headrace exposes them, and, coarser, as Ray's dashboard shows them."""

from __future__ import annotations

from cluster.watch.catalogue import (
    CALL_ROWS,
    ENGINE_SECONDS,
    FALLBACK_ROWS,
    ROW_ERRORS,
    ROWS_SCORED,
    SHADOW_ROWS,
    RowFault,
    ScoringWay,
)
from deployments.observe.metering import Meter
from deployments.observe.meters import Meters
from deployments.observe.ray_meter import RayMeter


class ScorerMeter:
    """Implements `Meter`. On a stream the rows that were answered are counted by its worker, once they are committed."""

    def __init__(self, meters: Meters, way: ScoringWay, ray_meter: Meter | None = None) -> None:
        self._meters, self._way = meters, way
        self._ray = ray_meter or RayMeter()
        self._counts_rows = way is not ScoringWay.STREAM

    def scored(self, model: str, version: int, rows: int, failed: int, seconds: float, *, refused: int = 0) -> None:
        """See `Meter.scored`."""
        meters, name, way = self._meters, str(version), self._way
        if self._counts_rows:
            meters.add(ROWS_SCORED, rows - failed - refused, model, name, way)
        if failed:
            meters.add(ROW_ERRORS, failed, model, name, way, RowFault.ENGINE_FAILURE)
        if refused:
            meters.add(ROW_ERRORS, refused, model, name, way, RowFault.BAD_INPUT)
        self._call(model, name, rows, seconds)
        self._ray.scored(model, version, rows, failed, seconds)

    def shadowed(self, model: str, version: int, rows: int, failed: int, seconds: float) -> None:
        """See `Meter.shadowed`."""
        name = str(version)
        self._meters.add(SHADOW_ROWS, rows, model, name)
        if failed:
            self._meters.add(ROW_ERRORS, failed, model, name, self._way, RowFault.ENGINE_FAILURE)
        self._call(model, name, rows, seconds)
        self._ray.scored(model, version, rows, failed, seconds)

    def missed(self, model: str, version: int, rows: int) -> None:
        """See `Meter.missed`."""
        self._meters.add(ROW_ERRORS, rows, model, str(version), self._way, RowFault.NO_CAPACITY)

    def fell_back(self, model: str, version: int, rows: int) -> None:
        """See `Meter.fell_back`."""
        self._meters.add(FALLBACK_ROWS, rows, model, str(version), self._way)
        self._ray.fell_back(model, version, rows)

    def _call(self, model: str, version: str, rows: int, seconds: float) -> None:
        self._meters.observe(ENGINE_SECONDS, seconds, model, version, self._way)
        self._meters.observe(CALL_ROWS, rows, model, version, self._way)
