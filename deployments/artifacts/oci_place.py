"""Versions in registries: `oci://HOST/NAME:TAG` or `oci://HOST/NAME@sha256:HEX`, as `headrace model push` sends them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cluster.errors import BadArtifact
from deployments.artifacts.manifest import BESIDE, KEYS, MANIFEST, parse_manifest, verify
from deployments.artifacts.oci_form import BELOW, DIGEST, MODELPACK_TYPE, SIZES
from deployments.oci.descriptors import INDEX_TYPES, Descriptor, parsed
from deployments.oci.layout import CHUNK_BYTES, told_of_disk
from deployments.oci.references import SCHEME, Reference, reference_of
from deployments.oci.registry import ImageRegistry

REMEDY = "push the version again"


@dataclass(frozen=True, slots=True)
class ShippedVersion:
    """A version in a registry. `reference` is pinned by digest, `manifest` its manifest.json, `digest` that one's SHA-256 in hex;
    `sizes` has its files' sizes in bytes as the registry was told them, by path; `beside` what lies beside the manifest."""

    reference: Reference
    digest: str
    manifest: bytes
    layers: tuple[Descriptor, ...]
    sizes: Mapping[str, int]
    beside: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """Where it is for good, whatever its tag names later."""
        return f"{SCHEME}{self.reference}"


def look_up(uri: str) -> ShippedVersion:
    """What a reference names, without its files. Raises BadInput, BadArtifact where it is no version or is damaged, NotFound,
    Unauthenticated, Forbidden, Unreachable."""
    asked = reference_of(uri, where="artifact")
    with ImageRegistry(asked) as registry:
        top, content = registry.manifest()
        document = parsed(content, uri)
        if top.media_type in INDEX_TYPES:
            _, content = registry.manifest(_modelpack_in(document, uri).digest)
            document = parsed(content, uri)
        annotations, listed = document.get("annotations"), document.get("layers")
        digest = annotations.get(DIGEST) if isinstance(annotations, dict) else None
        layers = tuple(Descriptor.read(one, uri) for one in listed) if isinstance(listed, list) else ()
        if document.get("artifactType") != MODELPACK_TYPE or not isinstance(digest, str) or not layers:
            raise _no_version(uri)
        sizes = _sizes(layers, uri)
        files = _files(io.BytesIO(registry.small(layers[0])), uri)
        with _told_of_tar(uri):
            first = {path: content.read() for path, _, content in files if path in (MANIFEST, *BESIDE)}
    manifest = first.pop(MANIFEST, b"")
    if hashlib.sha256(manifest).hexdigest() != digest:
        raise BadArtifact("its manifest differs from what it says of itself", where=uri, remedy=REMEDY)
    return ShippedVersion(Reference(asked.host, asked.name, top.digest), digest, manifest, layers, sizes, first)


def fill(shipped: ShippedVersion, folder: Path) -> None:
    """Writes the version's files into an empty folder; to be verified there. Raises as `look_up` does, and OSError."""
    uri = shipped.uri
    manifest = parse_manifest(shipped.manifest, uri)
    left = {MANIFEST: len(shipped.manifest), **{entry.path: entry.size_bytes for entry in manifest.files}}
    left |= {name: len(content) for name, content in shipped.beside.items()}
    if manifest.seal is not None:
        left[KEYS] = shipped.sizes.get(KEYS, 0)
    with ImageRegistry(shipped.reference) as registry:
        for layer in shipped.layers:
            with registry.reading(layer) as file, _told_of_tar(uri):
                for path, size_bytes, content in _files(file, uri):
                    # Its own manifest says which files there are, so none leads elsewhere.
                    if left.pop(path, None) != size_bytes:
                        raise BadArtifact("a layer holds a file that its manifest has not", where=uri, remedy=REMEDY)
                    target = folder / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as into:
                        shutil.copyfileobj(content, into, CHUNK_BYTES)


def read_file(shipped: ShippedVersion, name: str) -> bytes:
    """One of the version's files, as its layer has it. Raises as `look_up` does."""
    if name == MANIFEST:
        return shipped.manifest
    layer = next((one for one in shipped.layers if name in _sizes([one], shipped.uri)), None)
    if layer is None:
        raise BadArtifact(f"{name} is missing", where=shipped.uri, remedy=REMEDY)
    with ImageRegistry(shipped.reference) as registry, registry.reading(layer) as file, _told_of_tar(shipped.uri):
        return next((content.read() for path, _, content in _files(file, shipped.uri) if path == name), b"")


def pull(shipped: ShippedVersion, into: Path) -> Path:
    """Brings the version to INTO/DIGEST, verified: whole, or not at all. Where it is there already, what lies beside its manifest
    becomes what was pushed last. Raises as `fill` does, NoCapacity."""
    target = into / shipped.digest
    with told_of_disk(into):
        into.mkdir(parents=True, exist_ok=True)
        if target.exists():
            verify(target, shipped.digest)
            from deployments.artifacts.places import locate  # pyarrow, which replicas go without

            for name, content in _beside(shipped).items():
                (locate(str(target)) / name).write(content)
            return target
        with tempfile.TemporaryDirectory(prefix=".staging-", dir=into) as staging:
            folder = Path(staging) / shipped.digest
            folder.mkdir()
            fill(shipped, folder)
            verify(folder, shipped.digest)
            os.rename(folder, target)
    return target


def _beside(shipped: ShippedVersion) -> Mapping[str, bytes]:
    """What no digest of the version binds: who signed it, and whom it is sealed for."""
    sealed = parse_manifest(shipped.manifest, shipped.uri).seal is not None
    return {**shipped.beside, **({KEYS: read_file(shipped, KEYS)} if sealed else {})}


def _files(layer: IO[bytes], uri: str) -> Iterator[tuple[str, int, IO[bytes]]]:
    """The files of a layer: path below the artifact, size in bytes, content. Raises BadArtifact where it is no layer of ours, and
    what `_told_of_tar` tells, as reading their content does."""
    with tarfile.open(fileobj=layer, mode="r|") as tar:
        for member in tar:
            path = member.name.removeprefix(f"{BELOW}/")
            # A sparse one may be of any size in a few bytes.
            content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is not None and path != member.name:
                yield path, member.size, content
            elif not member.isdir():
                raise BadArtifact("a layer holds what is no file of a version", where=uri, remedy=REMEDY)


@contextmanager
def _told_of_tar(uri: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, ValueError) as error:  # ValueError: of numbers in a header that are none
        raise BadArtifact("a layer is damaged: it is no tar", where=uri, remedy=REMEDY) from error


def _modelpack_in(index: Mapping[str, Any], uri: str) -> Descriptor:
    """The manifest of an index that is ModelPack's. Raises BadArtifact."""
    listed = index.get("manifests")
    entries = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    found = [one for one in entries if one.get("artifactType") == MODELPACK_TYPE]
    if not found:
        raise _no_version(uri)
    return Descriptor.read(found[0], uri)


def _sizes(layers: Iterable[Descriptor], uri: str) -> dict[str, int]:
    """The files' sizes as the layers' annotations tell them. Raises BadArtifact."""
    sizes: dict[str, int] = {}
    try:
        for layer in layers:
            sizes |= {str(path): int(size) for path, size in json.loads(layer.annotations[SIZES]).items()}
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _no_version(uri) from error
    return sizes


def _no_version(uri: str) -> BadArtifact:
    return BadArtifact("is no version of a model", where=uri, remedy="name what `headrace model push` sent there")
