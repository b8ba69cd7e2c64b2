"""How many replicas Serve is told to run. Pure: Serve's policies run inside its controller, and never block."""

from __future__ import annotations


def settled(wanted: int, current: int, now_s: float, calm_since_s: float | None, calm_s: float) -> tuple[int, float | None]:
    """Up at once, down after `calm_s`: the target, and since when fewer would do (None: they would not)."""
    if wanted >= current:
        return wanted, None
    since_s = now_s if calm_since_s is None else calm_since_s
    return (wanted, None) if now_s - since_s >= calm_s else (current, since_s)
