"""What a scorer reports of itself, once a batch, and never per row."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """Takes one update for each batch that a version scored. Called on the hot path: must return at once, and never raise."""

    def scored(self, model: str, version: int, rows: int, failed: int, seconds: float) -> None:
        """`rows` of one batch were answered by `version` in `seconds`, `failed` of them with an error."""

    def fell_back(self, model: str, version: int, rows: int) -> None:
        """`rows` that `version` failed were answered by the stable version instead."""
