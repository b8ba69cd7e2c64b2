"""Time that a test moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """Called, it says what the test has set."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s
