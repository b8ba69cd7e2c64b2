"""What a page tells of a version, read from where its artifact lies: report and profile alone, verified, once a gateway."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from cluster.access.callers import Caller
from cluster.commands.versions import RESOLVE
from cluster.control_plane import ControlPlane
from cluster.errors import BadInput
from deployments.gateway.protocol.asked import parse_version

KEPT_MOST = 200  # a version never changes, and is small here


class VersionPages:
    """Used on one event loop."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control
        self._known: OrderedDict[str, asyncio.Task[dict[str, Any]]] = OrderedDict()

    async def about(self, model: str, version: str, caller: Caller) -> dict[str, Any]:
        """See `version_about.about`; without what the model's document redacts. Raises BadInput, NotFound, what `version.resolve`
        raises to him, and as `open_version` does."""
        if (number := parse_version(version)) is None:
            raise BadInput(f"{version[:40]!r} is no version", where="version", remedy="versions are numbers")
        found = await self._control.call(RESOLVE.name, {"model": model, "version": number}, caller)
        known = self._known.get(found["digest"])
        if known is None or (known.done() and known.exception() is not None):  # what failed once is tried again
            known = asyncio.create_task(asyncio.to_thread(_read, found["artifact_uri"], found["digest"]))
            self._known[found["digest"]] = known
            while len(self._known) > KEPT_MOST:
                self._known.popitem(last=False)
        self._known.move_to_end(found["digest"])
        return without(await asyncio.shield(known), (found.get("payloads") or {}).get("redact", ()))


def without(about: dict[str, Any], redact: Collection[str]) -> dict[str, Any]:
    """The same but for the profile of inputs and outputs of these names, which has values of rows. Pure."""
    profile = about["profile"]
    if not profile or not redact:
        return about
    told = [tensor for tensor in profile["tensors"] if tensor["name"] not in redact]
    kept_back = sorted({tensor["name"] for tensor in profile["tensors"]}.intersection(redact))
    return about | {"profile": profile | {"tensors": told, "kept_back": kept_back}}


def _read(uri: str, digest: str) -> dict[str, Any]:
    # Not needed before somebody looks, and slow to import.
    from deployments.artifacts.profile import read_profile
    from deployments.artifacts.version_files import open_version
    from deployments.builder.report import read_report
    from deployments.gateway.console.version_about import about

    files = open_version(uri, digest)
    return about(files.manifest, read_report(files), read_profile(files))
