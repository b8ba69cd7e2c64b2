"""Changes whom a version is sealed for: keys.json alone. Its digest and its files stay what they are."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import BadArtifact, BadInput, Conflict
from deployments.artifacts.manifest import KEYS
from deployments.artifacts.places import explaining, locate
from deployments.artifacts.roots import is_in_registry
from deployments.artifacts.sealing.wraps import SealKeys, unwrapped, wrapped_for
from deployments.artifacts.version_files import VersionFiles
from deployments.keys.port import KeyHolder
from deployments.keys.ring import KeyRing


def rewrap(
    version: VersionFiles, holders: Sequence[KeyHolder], ring: KeyRing, *, keep: bool = False
) -> tuple[SealKeys, SealKeys]:
    """Seals the version, where it lies, for `holders`, and for nobody else; with `keep` for those of before as well. Returns what
    was and what is now.

    Raises BadInput where nobody could open it, Conflict where its place can't be written to, Forbidden where no key of `ring`
    opens it, BadArtifact where it is not sealed, Unreachable.
    """
    manifest, uri = version.manifest, version.where
    if manifest.seal is None:
        raise BadArtifact("is not sealed", where=uri, remedy="build it again with `headrace build --seal KEY`")
    if not holders:
        raise BadInput("nobody could open it", where=uri, remedy="name a key with --seal")
    if is_in_registry(uri):
        raise Conflict(
            "what is in a registry stays as it was pushed",
            where=uri,
            remedy="rewrap the version that was pushed, and push it again: only its keys are sent",
        )
    before = version.seal_keys()
    data_key = unwrapped(before, manifest.seal, manifest.model, ring, where=uri)
    after = wrapped_for(holders, data_key, manifest.seal, manifest.model)
    if keep:
        fresh = {one.key for one in after.wraps}
        after = SealKeys(wraps=(*(one for one in before.wraps if one.key not in fresh), *after.wraps))
    write_keys(uri, after)
    return before, after


def write_keys(uri: str, keys: SealKeys) -> None:
    """Replaces them, whole. Raises NoCapacity, Unreachable, BadInput."""
    with explaining(uri, when_full="free some space; the keys of before still hold"):
        (locate(uri) / KEYS).write(keys.content, lasting=True)  # without them nothing opens the version
