"""The artifact: a directory that holds one immutable version.

    manifest.json   what is in it: signature, engine, steps, source, and the SHA-256 of every other file
    model.onnx      (engine onnx) or model.pt2 (engine torch), with any external data beside it
    samples.npz     sample rows: `in.NAME` and `out.NAME` arrays, replayed at load
    report.json     how it was evaluated
    report.html     the same, to read
    profile.json    what its inputs and outputs looked like on the held-out rows, with profile.npz; not in every artifact
    explain.json    how it is explained, with background.npz, rows to compare with; not in every artifact
    model.sig       a signature of all of these, and slsa.json, what it was made from; where it is signed

Content-addressed: its digest is the SHA-256 of manifest.json's bytes, and its folder is named by it.

A sealed one (`seal` in its manifest) has the same files, encrypted, and two more:

    provenance.json what the manifest of another tells: source and steps
    keys.json       the data key, wrapped for those who may open it. Not in the manifest: whom it is sealed for may change
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cluster.errors import BadArtifact, HeadraceError, Unreachable
from cluster.findings import first_finding
from cluster.signature import Signature

MANIFEST = "manifest.json"
SAMPLES = "samples.npz"
REPORT = "report.json"
PAGE = "report.html"
PROFILE = "profile.json"
PROFILE_ARRAYS = "profile.npz"
EXPLAIN = "explain.json"
BACKGROUND = "background.npz"
PROVENANCE = "provenance.json"
# Not in the manifest, whose digest is the version's: they may be made again, and say of themselves what they belong to.
KEYS = "keys.json"
SIGNATURE_FILE = "model.sig"
SLSA_FILE = "slsa.json"
BESIDE = (SIGNATURE_FILE, SLSA_FILE)
BESIDE_MOST_BYTES = 8 << 20  # of each: a signature of 40,000 files
# All that is not for an engine to read.
DESCRIBING = frozenset({SAMPLES, REPORT, PAGE, PROFILE, PROFILE_ARRAYS, EXPLAIN, BACKGROUND, PROVENANCE})

# Of the manifest: what any release reads, and what those read that know of sealed versions.
PLAIN_FORMAT, SEALED_FORMAT = 1, 2

REMEDY = "build the version again, or restore its files"
REMEDY_AWAY = "mount the disk that has it, or restore its files: whoever waits for it tries again"


class FileEntry(BaseModel):
    """One file of an artifact, by its path below the artifact's directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    size_bytes: int

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\0" in path:
            raise ValueError(f"{path!r} leaves the artifact")
        return path


class Seal(BaseModel):
    """How the files are encrypted: each by C2SP's chunked encryption with AES-256-GCM. `id` is random: what is sealed belongs to
    it, and opens nowhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: Literal["cobblestone-256"] = "cobblestone-256"
    id: str = Field(pattern=r"^[0-9a-f]{32}$")


class Manifest(BaseModel):
    """manifest.json. `sample_tolerance` is what replayed answers may differ by, absolute and relative. Of a sealed version the
    files are told as they lie there, encrypted, and source and steps lie in one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = PLAIN_FORMAT
    model: str
    engine: str
    signature: Signature
    files: tuple[FileEntry, ...]
    source: dict[str, Any]
    steps: tuple[dict[str, Any], ...] = ()
    sample_tolerance: float = 1e-4
    created_at: str
    seal: Seal | None = None

    @property
    def content(self) -> bytes:
        """Its bytes as a file: of a version that is not sealed, as every release reads them."""
        return self.model_dump_json(indent=2, exclude=None if self.seal else {"seal"}).encode()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex; for a folder that of its files' paths and digests."""
    if path.is_dir():
        files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return hashlib.sha256("".join(f"{file_digest(path / name)} {name}\n" for name in files).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Reads manifest.json of the artifact at `path`. Raises BadArtifact where it is missing or makes no sense, Unreachable."""
    return parse_manifest(manifest_bytes(path), str(path))


def manifest_bytes(path: Path) -> bytes:
    """The bytes of an artifact's manifest.json. Raises BadArtifact where there is none, Unreachable where it can't be read."""
    try:
        return (path / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_dir():
            raise BadArtifact("no manifest: this is no artifact", where=str(path / MANIFEST), remedy=REMEDY) from error
        raise BadArtifact("no manifest: there is no such folder", where=str(path), remedy=REMEDY_AWAY) from error
    except OSError as error:  # a mount whose server is away, or no right to it
        raise Unreachable(f"the manifest can't be read: {error}", where=str(path / MANIFEST), remedy=REMEDY_AWAY) from error


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest of the artifact at `where`, a path or URI, from its bytes. Raises BadArtifact. Pure."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        found = first_finding(error)
        raise BadArtifact(f"bad manifest: {found.field} {found.words}", where=f"{where}/{MANIFEST}", remedy=REMEDY) from error
    if manifest.format != (SEALED_FORMAT if manifest.seal else PLAIN_FORMAT):
        raise BadArtifact(
            f"format {manifest.format} is unknown", where=f"{where}/{MANIFEST}", remedy="use the Headrace release that built it"
        )
    return manifest


def registered_manifest(content: bytes, digest: str | None, where: str) -> Manifest:
    """As `parse_manifest`, once its bytes are known to have this digest, where one is given."""
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise BadArtifact("the manifest is not the registered one", where=f"{where}/{MANIFEST}", remedy=REMEDY)
    return parse_manifest(content, where)


def cannot_be_read(folder: Path, name: str, error: OSError) -> HeadraceError:
    """Of one of an artifact's files: that it is missing is the artifact's fault; that it can't be read now, its place's: a mount
    that is away, also in the midst of reading, a right, a disk."""
    if isinstance(error, FileNotFoundError) and os.path.isdir(folder):  # which never raises
        return BadArtifact(f"{name} is missing", where=str(folder), remedy=REMEDY)
    return Unreachable(f"{name} can't be read: {error}", where=f"{folder}/{name}", remedy=REMEDY_AWAY)


def verify(path: Path, digest: str | None = None) -> Manifest:
    """Checks every file of the artifact at `path` against its manifest, and the manifest against `digest` where given.

    Returns the manifest. Raises BadArtifact that names the first file that is missing or differs, Unreachable where one that is
    there can't be read.
    """
    manifest = registered_manifest(manifest_bytes(path), digest, str(path))
    for entry in manifest.files:
        file = path / entry.path
        try:
            same = file.stat().st_size == entry.size_bytes and file_digest(file) == entry.sha256
        except OSError as error:
            raise cannot_be_read(path, entry.path, error) from error
        if not same:
            raise BadArtifact(f"{entry.path} is damaged: its digest differs", where=str(file), remedy=REMEDY)
    if manifest.seal is not None and not (path / KEYS).is_file():
        raise BadArtifact(f"{KEYS} is missing: nobody can open it", where=str(path / KEYS), remedy=REMEDY)
    return manifest
