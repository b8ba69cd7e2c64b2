"""Which tests of a run of several workers (pytest-xdist) stay together on one, and in which order they begin.

By file, from what stands in it: xdist's own groups are marks on tests, which its controlling process does not see, and which are
lost with pytest 9.2.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from xdist.scheduler.loadscope import LoadScopeScheduling

ROOT = Path(__file__).parents[2]
# The longest first: tests that share a cluster, those that start one of their own, those that share a broker.
SHARED = ("ray_cluster", "Machine", "broker")


@functools.cache
def shared_by(file: str) -> str:
    """Which of `SHARED` the tests of this file take, "" for none; a path from the project's root."""
    words = set(re.findall(r"\w+", (ROOT / file).read_text(encoding="utf-8")))
    if "/unit/" in file:
        return ""
    if "/e2e/" in file:
        return "Machine"
    return next((name for name in SHARED if name in words), "")


def begins(file: str) -> int:
    """The lower, the earlier."""
    if "/nodes/" in file:
        return 0  # several machines: minutes
    shared = shared_by(file)
    return SHARED.index(shared) if shared else len(SHARED)


class SharingScheduling(LoadScopeScheduling):
    """One worker takes all tests that share a cluster, and one all that share a broker; the rest stay with their files."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        shared = shared_by(file)
        return shared if shared in ("ray_cluster", "broker") else file
