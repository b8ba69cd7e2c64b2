"""What a scorer reports of itself, once a call, and never per row."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """Takes one update for each call that a version answered, or did not. Called on the hot path: must return at once, and never
    raise."""

    def scored(self, model: str, version: int, rows: int, failed: int, seconds: float, *, refused: int = 0) -> None:
        """`rows` of one call were answered by `version` in `seconds`: `failed` by its fault, `refused` by their own."""

    def shadowed(self, model: str, version: int, rows: int, failed: int, seconds: float) -> None:
        """`rows` of one call were scored in shadow: nobody gets these answers."""

    def missed(self, model: str, version: int, rows: int) -> None:
        """`rows` of one call met no replica of `version` that took them."""

    def fell_back(self, model: str, version: int, rows: int) -> None:
        """`rows` that `version` failed were answered by the stable version instead."""


class SilentMeter:
    """Implements `Meter` for rows that are nobody's traffic: those scored to choose what is explained."""

    def scored(self, model: str, version: int, rows: int, failed: int, seconds: float, *, refused: int = 0) -> None:
        """See `Meter.scored`."""

    def shadowed(self, model: str, version: int, rows: int, failed: int, seconds: float) -> None:
        """See `Meter.shadowed`."""

    def missed(self, model: str, version: int, rows: int) -> None:
        """See `Meter.missed`."""

    def fell_back(self, model: str, version: int, rows: int) -> None:
        """See `Meter.fell_back`."""
