"""Brings a version to this machine, verified."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pyarrow.fs as pafs

from cluster.errors import BadArtifact, Unreachable
from deployments.artifacts.manifest import MANIFEST, REMEDY, verify
from deployments.artifacts.package import Staging
from deployments.artifacts.roots import local_path, remote


def localize(uri: str, digest: str, *, cache: Path | None = None) -> Path:
    """Returns a local, verified directory of the artifact at `uri`.

    A local one is used where it stands. A remote one (any pyarrow filesystem URI) is fetched once into `cache`, by default
    `~/.cache/headrace/artifacts`; several processes may do so at a time. Raises BadArtifact, Unreachable, NoCapacity.
    """
    local = local_path(uri)
    if local is not None:
        verify(local, digest)
        return local
    cache = cache or Path.home() / ".cache" / "headrace" / "artifacts"
    target = cache / digest
    if not target.exists():
        _fetch(uri, digest, target)
    verify(target, digest)
    return target


def _fetch(uri: str, digest: str, target: Path) -> None:
    with Staging(target.parent) as staging:
        filesystem, base = remote(uri)
        if filesystem.get_file_info(f"{base}/{MANIFEST}").type != pafs.FileType.File:
            raise BadArtifact("no manifest: this is no artifact", where=uri, remedy=REMEDY)
        copied = staging / digest
        copied.mkdir()
        pafs.copy_files(base, str(copied), filesystem, pafs.LocalFileSystem())
        verify(copied, digest)
        try:
            os.rename(copied, target)
        except OSError as error:
            # Another process was first: its copy was verified as ours was.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def remove(uri: str) -> None:
    """Deletes the artifact at `uri`; nothing happens where there is none. Raises Unreachable."""
    local = local_path(uri)
    try:
        if local is not None:
            if (local / MANIFEST).exists():
                shutil.rmtree(local)
            return
        filesystem, base = remote(uri)
        if filesystem.get_file_info(base).type == pafs.FileType.Directory:
            filesystem.delete_dir(base)
    except OSError as error:
        raise Unreachable(
            f"the artifact can't be removed: {error}", where=uri, remedy="check the path and its permissions"
        ) from error
