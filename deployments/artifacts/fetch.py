"""Brings a version to this machine, verified."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from cluster.errors import BadArtifact, HeadraceError, Unreachable
from deployments.artifacts.cache import ArtifactCache, CacheSettings
from deployments.artifacts.manifest import KEYS, MANIFEST, REMEDY, REMEDY_AWAY, verify
from deployments.artifacts.registered import sizes_below
from deployments.artifacts.roots import is_in_registry, local_path, remote
from deployments.artifacts.version_files import open_version

_log = logging.getLogger(__name__)


def localize(uri: str, digest: str, *, cache: Path | None = None) -> Path:
    """Returns a local, verified directory of the artifact at `uri`.

    A local one is used where it stands. A remote one (any pyarrow filesystem URI, or `oci://`) is fetched once into `cache`, by
    default the folder that `CacheSettings` names; several processes may do so at a time, and a damaged copy is fetched again.
    Raises BadArtifact where the artifact itself is damaged, Unreachable where its place is away, NoCapacity; of a registry also
    Unauthenticated, Forbidden, NotFound. A sealed one stays sealed here: see `version_files`.
    """
    local = local_path(uri)
    if local is not None:
        _see_folder(local)
        verify(local, digest)
        return local
    settings = CacheSettings.from_environment()
    copies = ArtifactCache(settings if cache is None else replace(settings, folder=cache))
    copy = copies.hold(digest)
    if copy is not None:
        try:
            manifest = verify(copy, digest)
        except (BadArtifact, Unreachable) as damage:
            _log.warning("a copy is damaged, and fetched again from %s: %s", uri, damage)
            copies.drop(copy)
        else:
            if manifest.seal is not None:
                _refresh_keys(uri, digest, copy)
            return copy
    return _fetch(uri, digest, copies)


def _see_folder(folder: Path) -> None:
    """Raises Unreachable where it is not there: somebody has registered it, so its disk is away, or a right to it."""
    try:
        folder.stat()
    except OSError as error:
        what = "there is no such folder" if isinstance(error, FileNotFoundError) else f"it can't be reached: {error.strerror}"
        raise Unreachable(what, where=str(folder), remedy=REMEDY_AWAY) from error


def _refresh_keys(uri: str, digest: str, copy: Path) -> None:
    """Whom a sealed version is sealed for may have changed since; or it was pushed again, with other keys, to where `uri` is in a
    registry. Where its place is away, the copy's own keys are tried."""
    from deployments.artifacts.sealing.rewrapping import write_keys

    try:
        keys = open_version(uri, digest).seal_keys()
        if keys.content != (copy / KEYS).read_bytes():  # whatever is there now: its bytes may be damaged
            write_keys(str(copy), keys)
    except HeadraceError as error:
        _log.warning("whom %s is sealed for is not known to be new: %s", copy, error)


def _fetch(uri: str, digest: str, copies: ArtifactCache) -> Path:
    if is_in_registry(uri):
        return _fetch_from_registry(uri, digest, copies)
    filesystem, base = remote(uri)
    try:
        found = sizes_below(filesystem, base)
    except OSError as error:
        raise Unreachable(f"the artifact can't be read: {error}", where=uri, remedy="see that its place is there") from error
    if not found:  # somebody has registered it: a bucket that is not the one, or whose files are to be restored
        raise Unreachable("nothing lies there", where=uri, remedy=REMEDY_AWAY)
    if MANIFEST not in found:
        raise BadArtifact("no manifest: this is no artifact", where=uri, remedy=REMEDY)

    import pyarrow.fs as pafs  # as in `roots`

    def fill(folder: Path) -> None:
        pafs.copy_files(base, str(folder), filesystem, pafs.LocalFileSystem())
        verify(folder, digest)

    return copies.add(digest, sum(found.values()), fill)


def _fetch_from_registry(uri: str, digest: str, copies: ArtifactCache) -> Path:
    from deployments.artifacts.oci_place import fill, look_up  # an HTTP client, which others go without

    shipped = look_up(uri)
    if shipped.digest != digest:
        raise BadArtifact(
            "names another version than the registered one",
            where=uri,
            remedy=f"register versions by their digest, e.g. {shipped.uri}: a tag moves",
        )

    def fill_verified(folder: Path) -> None:
        fill(shipped, folder)
        verify(folder, digest)

    return copies.add(digest, sum(shipped.sizes.values()), fill_verified)


def remove(uri: str) -> None:
    """Deletes the artifact at `uri`; nothing happens where there is none, or in a registry: others pull from there.

    Raises Unreachable.
    """
    if is_in_registry(uri):
        return
    local = local_path(uri)
    try:
        if local is not None:
            if (local / MANIFEST).exists():
                shutil.rmtree(local)
            return
        import pyarrow.fs as pafs  # as in `roots`

        filesystem, base = remote(uri)
        if filesystem.get_file_info(base).type == pafs.FileType.Directory:
            filesystem.delete_dir(base)
    except OSError as error:
        raise Unreachable(
            f"the artifact can't be removed: {error}", where=uri, remedy="check the path and its permissions"
        ) from error
