"""Single files of an artifact, apart from the others: read where it lies, and verified by what its manifest lists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial

from cluster.errors import BadArtifact, Unreachable
from deployments.artifacts.manifest import MANIFEST, REMEDY, Manifest, parse_manifest
from deployments.artifacts.roots import is_in_registry, local_path, remote


def read_listed(uri: str, digest: str, *names: str) -> tuple[Manifest, Mapping[str, bytes]]:
    """The manifest of the artifact at `uri`, and those of its files that have one of these names, by name.

    Raises BadArtifact where one is not what was registered, Unreachable where the place can't be asked.
    """
    read = _reader(uri)
    content = read(MANIFEST)
    if hashlib.sha256(content).hexdigest() != digest:
        raise BadArtifact("the manifest is not the registered one", where=uri, remedy=REMEDY)
    manifest = parse_manifest(content, uri)
    listed = {entry.path: entry.sha256 for entry in manifest.files}
    found = {name: read(name) for name in names if name in listed}
    for name, bytes_ in found.items():
        if hashlib.sha256(bytes_).hexdigest() != listed[name]:
            raise BadArtifact(f"{name} is damaged: its digest differs", where=uri, remedy=REMEDY)
    return manifest, found


def _reader(uri: str) -> Callable[[str], bytes]:
    """What reads the artifact's files by their names."""
    if is_in_registry(uri):
        from deployments.artifacts.oci_place import look_up, read_file  # an HTTP client, which others go without

        return partial(read_file, look_up(uri))
    return partial(_read, uri)


def _read(uri: str, name: str) -> bytes:
    local = local_path(uri)
    try:
        if local is not None:
            return (local / name).read_bytes()
        filesystem, base = remote(uri)
        with filesystem.open_input_stream(f"{base}/{name}") as stream:
            content: bytes = stream.read()
            return content
    except FileNotFoundError as error:
        raise BadArtifact(f"{name} is missing", where=uri, remedy=REMEDY) from error
    except OSError as error:
        raise Unreachable(f"{name} can't be read: {error}", where=uri, remedy="see that its place is there") from error
