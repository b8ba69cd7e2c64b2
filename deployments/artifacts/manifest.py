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
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from cluster.errors import BadArtifact
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
# Not in the manifest, whose digest is the version's: they may be made again, and say of themselves what they belong to.
SIGNATURE_FILE = "model.sig"
SLSA_FILE = "slsa.json"
BESIDE = (SIGNATURE_FILE, SLSA_FILE)
BESIDE_MOST_BYTES = 8 << 20  # of each: a signature of 40,000 files

REMEDY = "build the version again, or restore its files"


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
        if parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise ValueError(f"{path!r} leaves the artifact")
        return path


class Manifest(BaseModel):
    """manifest.json. `sample_tolerance` is what replayed answers may differ by, absolute and relative."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    model: str
    engine: str
    signature: Signature
    files: tuple[FileEntry, ...]
    source: dict[str, Any]
    steps: tuple[dict[str, Any], ...] = ()
    sample_tolerance: float = 1e-4
    created_at: str


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex; for a folder that of its files' paths and digests."""
    if path.is_dir():
        files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return hashlib.sha256("".join(f"{file_digest(path / name)} {name}\n" for name in files).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Reads manifest.json of the artifact at `path`. Raises BadArtifact where it is missing or makes no sense."""
    return parse_manifest(manifest_bytes(path), str(path))


def manifest_bytes(path: Path) -> bytes:
    """The bytes of an artifact's manifest.json. Raises BadArtifact where there is none."""
    try:
        return (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BadArtifact("no manifest: this is no artifact", where=str(path / MANIFEST), remedy=REMEDY) from error


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest of the artifact at `where`, a path or URI, from its bytes. Raises BadArtifact. Pure."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        found = first_finding(error)
        raise BadArtifact(f"bad manifest: {found.field} {found.words}", where=f"{where}/{MANIFEST}", remedy=REMEDY) from error
    if manifest.format != 1:
        raise BadArtifact(
            f"format {manifest.format} is unknown", where=f"{where}/{MANIFEST}", remedy="use the Headrace release that built it"
        )
    return manifest


def verify(path: Path, digest: str | None = None) -> Manifest:
    """Checks every file of the artifact at `path` against its manifest, and the manifest against `digest` where given.

    Returns the manifest. Raises BadArtifact that names the first file that is missing or differs.
    """
    content = manifest_bytes(path)
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise BadArtifact("the manifest is not the registered one", where=str(path / MANIFEST), remedy=REMEDY)
    manifest = parse_manifest(content, str(path))
    for entry in manifest.files:
        file = path / entry.path
        try:
            same = file.stat().st_size == entry.size_bytes and file_digest(file) == entry.sha256
        except OSError as error:
            raise BadArtifact(f"{entry.path} can't be read: {error}", where=str(file), remedy=REMEDY) from error
        if not same:
            raise BadArtifact(f"{entry.path} is damaged: its digest differs", where=str(file), remedy=REMEDY)
    return manifest
