"""Stops what runs inside Ray, in order and gently: `python -m headrace.local.drain`, for `headrace down`."""

from __future__ import annotations

from headrace.local.home import read_settings
from headrace.local.ray.connection import joined_ray


def drain() -> None:
    """First the controller rests, which would start them again; then streams and gateway; then versions. Others' apps stay."""
    settings = read_settings()
    with joined_ray(settings):
        from headrace.local.services import stop_services  # imports Ray, whose variables are set by now

        stop_services()


if __name__ == "__main__":
    drain()
