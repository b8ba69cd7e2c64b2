"""A version's files as they are read: whole, into memory, verified as their bytes pass, and opened where they are sealed.

What is loaded are the very bytes that were verified: nobody can change a file in between.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import BadArtifact, Unreachable
from deployments.artifacts.manifest import (
    KEYS,
    MANIFEST,
    PROVENANCE,
    REMEDY,
    FileEntry,
    Manifest,
    Seal,
    cannot_be_read,
    manifest_bytes,
    parse_manifest,
    registered_manifest,
)
from deployments.artifacts.roots import is_in_registry, local_path, remote

if TYPE_CHECKING:
    from deployments.artifacts.sealing.wraps import SealKeys

OpenFile = Callable[[str], io.BufferedIOBase]
Give = Callable[[memoryview], object]
_BLOCK_BYTES = 1 << 16


class Provenance(BaseModel):
    """What a version was made from and how: provenance.json of a sealed one, and part of the manifest of another."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    source: dict[str, Any]
    steps: tuple[dict[str, Any], ...] = ()


class VersionReader(Protocol):
    """Reads a version's files by their names. Blocks."""

    @property
    def where(self) -> str:
        """Where the version lies: a path or URI."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def read(self, name: str) -> bytes:
        """All of it. Raises BadArtifact, Unreachable, or OSError where it is not there."""


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """Implements `VersionReader`: files of a version that is not sealed, as they lie there. Somebody has verified them."""

    folder: Path

    @property
    def where(self) -> str:
        """See `VersionReader.where`."""
        return str(self.folder)

    def has(self, name: str) -> bool:
        """See `VersionReader.has`."""
        return (self.folder / name).exists()

    def read(self, name: str) -> bytes:
        """See `VersionReader.read`."""
        return (self.folder / name).read_bytes()


class VersionFiles:
    """Implements `VersionReader`. May be used from several threads. Never leaves its process: it may hold a key."""

    def __init__(self, manifest: Manifest, where: str, open_file: OpenFile) -> None:
        """`open_file` opens the file of a name as it lies there; it raises BadArtifact or Unreachable."""
        self._manifest = manifest
        self._where = where
        self._open = open_file
        self._listed = {entry.path: entry for entry in manifest.files}
        self._data_key: bytes | None = None

    @property
    def manifest(self) -> Manifest:
        """As it was verified."""
        return self._manifest

    @property
    def where(self) -> str:
        """See `VersionReader.where`."""
        return self._where

    @property
    def names(self) -> tuple[str, ...]:
        """Of all files, by the manifest."""
        return tuple(self._listed)

    def has(self, name: str) -> bool:
        """See `VersionReader.has`."""
        return name in self._listed

    def read(self, name: str) -> bytes:
        """The file, verified and opened. Raises BadArtifact, Unreachable; Forbidden where no key of this machine opens it."""
        entry, content = self._entry(name), io.BytesIO()
        # Its memory at once: what grows leaves holes behind, which the process keeps.
        content.seek(max(0, self._plain_bytes(entry) - 1))
        content.write(b"\0")
        content.seek(0)
        self.pour(name, content.write)
        content.truncate()
        return content.getvalue()

    def pour(self, name: str, give: Give) -> None:
        """Hands on the file, block by block: verified once this returns, and not to be used before. The blocks are memory that is
        used again. Raises as `read` does, and what `give` raises but OSError."""
        entry, seal = self._entry(name), self._manifest.seal
        if seal is None:
            self._pour_as_it_lies(entry, give)
            return
        from deployments.artifacts.sealing.chunks import context_of, open_sealed  # what others go without

        data_key, context, digest = self._opening_key(seal), context_of(seal, self._manifest.model, name), hashlib.sha256()
        with self._reading(name) as stream:
            whole = open_sealed(stream, data_key, context, saw=digest.update, give=give)
        self._same(entry, digest.hexdigest())
        if not whole:
            words = f"{name} does not open: it was sealed as another file, or with another key"
            raise BadArtifact(words, where=f"{self._where}/{name}", remedy=REMEDY)

    def check(self, name: str) -> None:
        """Verifies a file that nobody reads. Raises BadArtifact, Unreachable."""
        self._pour_as_it_lies(self._entry(name), lambda _: None)

    @cached_property
    def provenance(self) -> Provenance:
        """Source and steps. Raises as `read` does."""
        if self._manifest.seal is None:
            return Provenance(source=self._manifest.source, steps=self._manifest.steps)
        try:
            return Provenance.model_validate_json(self.read(PROVENANCE))
        except ValidationError as error:
            raise BadArtifact(f"bad {PROVENANCE}", where=self._where, remedy=REMEDY) from error

    def seal_keys(self) -> SealKeys:
        """Whom a sealed version is sealed for, as it stands now. Raises BadArtifact, Unreachable."""
        from deployments.artifacts.sealing.wraps import MOST_BYTES, parse_wraps

        with self._reading(KEYS) as stream:
            return parse_wraps(stream.read(MOST_BYTES), self._where)

    def _pour_as_it_lies(self, entry: FileEntry, give: Give) -> None:
        digest, block, left = hashlib.sha256(), memoryview(bytearray(_BLOCK_BYTES)), entry.size_bytes
        with self._reading(entry.path) as stream:
            while left >= 0 and (count := stream.readinto(block)):  # of what grew, not all
                left -= count
                digest.update(block[:count])
                give(block[:count])
        self._same(entry, digest.hexdigest())

    def _plain_bytes(self, entry: FileEntry) -> int:
        if self._manifest.seal is None:
            return entry.size_bytes
        from deployments.artifacts.sealing.chunks import plain_bytes

        return plain_bytes(entry.size_bytes)

    def _opening_key(self, seal: Seal) -> bytes:
        """The data key: asked for once."""
        if self._data_key is None:
            from deployments.artifacts.sealing.dumps import keep_from_dumps
            from deployments.artifacts.sealing.wraps import unwrapped
            from deployments.keys.ring import KeyRing

            keep_from_dumps()
            ring = KeyRing.from_environment()
            self._data_key = unwrapped(self.seal_keys(), seal, self._manifest.model, ring, where=self._where)
        return self._data_key

    @contextmanager
    def _reading(self, name: str) -> Iterator[io.BufferedIOBase]:
        try:
            with self._open(name) as stream:
                yield stream
        except OSError as error:
            raise cannot_be_read(Path(self._where), name, error) from error

    def _entry(self, name: str) -> FileEntry:
        if name not in self._listed:
            raise BadArtifact(f"{name} is missing", where=self._where, remedy=REMEDY)
        return self._listed[name]

    def _same(self, entry: FileEntry, digest: str) -> None:
        if digest != entry.sha256:
            raise BadArtifact(f"{entry.path} is damaged: its digest differs", where=f"{self._where}/{entry.path}", remedy=REMEDY)

    def __reduce__(self) -> Any:
        raise TypeError("an opened version stays in its process")


def open_folder(folder: Path, digest: str | None = None) -> VersionFiles:
    """The version in this folder, its manifest checked against `digest` where given; files are checked as they are read.

    Raises BadArtifact.
    """
    manifest = registered_manifest(manifest_bytes(folder), digest, str(folder))
    return VersionFiles(manifest, str(folder), partial(_open_local, folder))


def open_version(uri: str, digest: str) -> VersionFiles:
    """The version at a path or URI, where it lies: each file is fetched when it is read. Raises BadArtifact, Unreachable; of a
    registry also Unauthenticated, Forbidden, NotFound."""
    local = local_path(uri)
    open_file = partial(_open_local, local) if local is not None else _opener(uri)
    with open_file(MANIFEST) as stream:
        content = stream.read()
    return VersionFiles(registered_manifest(content, digest, uri), uri, open_file)


def reader_of(version: Path | VersionFiles) -> VersionReader:
    """What reads it; of a folder that somebody has verified, as it lies there, unless it is sealed."""
    if isinstance(version, VersionFiles):
        return version
    return open_folder(version) if _is_sealed(version) else FolderFiles(version)


def _is_sealed(folder: Path) -> bool:
    """Whether the version in this folder is. Raises BadArtifact where its manifest makes no sense."""
    file = folder / MANIFEST
    content = file.read_bytes() if file.exists() else b""
    return b'"seal"' in content and parse_manifest(content, str(folder)).seal is not None


def files_of(version: Path | VersionFiles) -> VersionFiles:
    """What reads and verifies it. Raises BadArtifact."""
    return version if isinstance(version, VersionFiles) else open_folder(version)


def _open_local(folder: Path, name: str) -> io.BufferedIOBase:
    try:
        return (folder / name).open("rb")
    except OSError as error:
        raise cannot_be_read(folder, name, error) from error


def _opener(uri: str) -> OpenFile:
    """What opens the version's files by their names, elsewhere."""
    if is_in_registry(uri):
        from deployments.artifacts.oci_place import look_up, read_file  # an HTTP client, which others go without

        shipped = look_up(uri)
        return lambda name: io.BytesIO(read_file(shipped, name))
    filesystem, base = remote(uri)

    def open_remote(name: str) -> io.BufferedIOBase:
        try:
            with filesystem.open_input_stream(f"{base}/{name}") as stream:
                return io.BytesIO(stream.read())
        except FileNotFoundError as error:
            raise BadArtifact(f"{name} is missing", where=uri, remedy=REMEDY) from error
        except OSError as error:
            raise Unreachable(f"{name} can't be read: {error}", where=uri, remedy="see that its place is there") from error

    return open_remote
