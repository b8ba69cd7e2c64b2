"""What is registered, looked at where it stands: the manifest and the sizes of files, on any kind of place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import BadArtifact, Unreachable
from cluster.signature import Signature
from deployments.artifacts.manifest import KEYS, MANIFEST, REMEDY, manifest_bytes, parse_manifest
from deployments.artifacts.roots import is_in_registry, local_path, remote

if TYPE_CHECKING:
    import pyarrow.fs as pafs


def check_registered(uri: str, digest: str, engine: str, signature: Signature) -> None:
    """Raises BadArtifact unless an artifact with that manifest stands at `uri`, says the same of itself, and has all its files in
    their sizes; Unreachable where the place can't be asked. Reads the manifest alone: replicas check every byte."""
    try:
        content, sizes = _seen(uri)
    except OSError as error:
        raise Unreachable(
            f"the artifact can't be read: {error}", where=uri, remedy="check the path and its permissions"
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise BadArtifact("its manifest has another digest", where=uri, remedy="register the digest that the build told")
    manifest = parse_manifest(content, uri)
    wrong = next((entry.path for entry in manifest.files if sizes.get(entry.path) != entry.size_bytes), None)
    if wrong is None and manifest.seal is not None and not sizes.get(KEYS):
        wrong = KEYS
    if wrong is not None:
        raise BadArtifact(f"{wrong} is missing, or has another size", where=uri, remedy=REMEDY)
    if (manifest.engine, manifest.signature) != (engine, signature):
        raise BadArtifact("its manifest names another engine or signature", where=uri, remedy="register what the build told")


def _seen(uri: str) -> tuple[bytes, Mapping[str, int]]:
    """The bytes of the manifest, and the size of every file by its path."""
    local = local_path(uri)
    if local is not None:
        return manifest_bytes(local), _local_sizes(local)
    if is_in_registry(uri):
        from deployments.artifacts.oci_place import look_up  # an HTTP client, which others go without

        shipped = look_up(uri)
        return shipped.manifest, shipped.sizes
    import pyarrow.fs as pafs  # as in `roots`

    filesystem, base = remote(uri)
    if filesystem.get_file_info(f"{base}/{MANIFEST}").type != pafs.FileType.File:
        raise BadArtifact("no manifest: this is no artifact", where=uri, remedy=REMEDY)
    with filesystem.open_input_stream(f"{base}/{MANIFEST}") as stream:
        return bytes(stream.read()), sizes_below(filesystem, base)


def sizes_below(filesystem: pafs.FileSystem, base: str) -> dict[str, int]:
    """The size of every file below a folder, by its path from there; none where nothing is."""
    import pyarrow.fs as pafs  # as in `roots`

    found = filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(base).lstrip("/"): info.size for info in found if info.type == pafs.FileType.File}


def _local_sizes(folder: Path) -> dict[str, int]:
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
