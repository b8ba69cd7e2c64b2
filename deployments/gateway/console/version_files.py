"""What a page tells of a version, read from where its artifact lies: report and profile alone, verified, once a gateway."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

from cluster.access.callers import Caller
from cluster.commands.versions import RESOLVE
from cluster.control_plane import ControlPlane
from cluster.errors import BadInput

KEPT_MOST = 200  # a version never changes, and is small here


class VersionFiles:
    """Used on one event loop."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        self._known: OrderedDict[str, asyncio.Task[dict[str, Any]]] = OrderedDict()

    async def about(self, model: str, version: str, caller: Caller) -> dict[str, Any]:
        """See `version_about.about`. Raises BadInput, what `version.resolve` raises to this caller, and as `read_listed` does."""
        if not version.isdecimal():
            raise BadInput(f"{version[:40]!r} is no version", where="version", remedy="versions are numbers")
        found = await self._control.call(RESOLVE.name, {"model": model, "version": int(version)}, caller)
        known = self._known.get(found["digest"])
        if known is None or (known.done() and known.exception() is not None):  # what failed once is tried again
            known = asyncio.create_task(asyncio.to_thread(_read, found["artifact_uri"], found["digest"]))
            self._known[found["digest"]] = known
            while len(self._known) > KEPT_MOST:
                self._known.popitem(last=False)
        self._known.move_to_end(found["digest"])
        return await asyncio.shield(known)


def _read(uri: str, digest: str) -> dict[str, Any]:
    # Not needed before somebody looks, and slow to import.
    from deployments.artifacts.listed import read_listed
    from deployments.artifacts.manifest import PROFILE, PROFILE_ARRAYS, REPORT
    from deployments.artifacts.profile import parse_profile
    from deployments.builder.report import parse_report
    from deployments.gateway.console.version_about import about

    manifest, found = read_listed(uri, digest, REPORT, PROFILE, PROFILE_ARRAYS)
    profile = parse_profile(found[PROFILE], found[PROFILE_ARRAYS], uri) if PROFILE in found and PROFILE_ARRAYS in found else None
    report = parse_report(found[REPORT], uri) if REPORT in found else None
    return about(manifest, report, profile)
