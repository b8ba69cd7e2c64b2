"""Where several machines can be made: as root on Linux, with the rights of one."""

from __future__ import annotations

import os

import pytest

from tests.support.net_nodes import why_none


@pytest.fixture(scope="session", autouse=True)
def namespaces() -> None:
    """Skips with the reason where they can't be made; where CI runs, it fails."""
    why = why_none()
    if why and os.environ.get("HEADRACE_CI"):
        pytest.fail(why)
    if why:
        pytest.skip(why)
