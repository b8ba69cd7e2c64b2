"""The artifact: a directory that holds one immutable version.

    manifest.json   what is in it: signature, engine, steps, source, and the SHA-256 of every other file
    model.onnx      (engine onnx) or model.pt2 (engine torch), with any external data beside it
    samples.npz     sample rows: `in.NAME` and `out.NAME` arrays, replayed at load
    report.json     how it was evaluated
    report.html     the same, to read
    profile.json    what its inputs and outputs looked like on the held-out rows, with profile.npz; not in every artifact
    explain.json    how it is explained, with background.npz, rows to compare with; not in every artifact

Content-addressed: its digest is the SHA-256 of manifest.json's bytes, and its folder is named by it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from cluster.errors import BadArtifact, Unreachable
from cluster.findings import first_finding
from cluster.signature import Signature
from deployments.artifacts.roots import local_path, remote

if TYPE_CHECKING:
    import pyarrow.fs as pafs

MANIFEST = "manifest.json"
SAMPLES = "samples.npz"
REPORT = "report.json"
PAGE = "report.html"
PROFILE = "profile.json"
PROFILE_ARRAYS = "profile.npz"
EXPLAIN = "explain.json"
BACKGROUND = "background.npz"

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
    return parse_manifest(_manifest_bytes(path), str(path))


def _manifest_bytes(path: Path) -> bytes:
    try:
        return (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BadArtifact("no manifest: this is no artifact", where=str(path / MANIFEST), remedy=REMEDY) from error


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest of the artifact at `where`, a path or URI, from its bytes. Raises BadArtifact."""
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
    content = _manifest_bytes(path)
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


def check_registered(uri: str, digest: str, engine: str, signature: Signature) -> None:
    """Raises BadArtifact unless an artifact with that manifest stands at `uri`, says the same of itself, and has all its files in
    their sizes; Unreachable where the place can't be asked. Reads the manifest alone: replicas check every byte."""
    local = local_path(uri)
    try:
        if local is not None:
            content, sizes = _manifest_bytes(local), _local_sizes(local)
        else:
            import pyarrow.fs as pafs  # as in `roots`

            filesystem, base = remote(uri)
            if filesystem.get_file_info(f"{base}/{MANIFEST}").type != pafs.FileType.File:
                raise BadArtifact("no manifest: this is no artifact", where=uri, remedy=REMEDY)
            with filesystem.open_input_stream(f"{base}/{MANIFEST}") as stream:
                content = stream.read()
            sizes = sizes_below(filesystem, base)
    except OSError as error:
        raise Unreachable(
            f"the artifact can't be read: {error}", where=uri, remedy="check the path and its permissions"
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise BadArtifact("its manifest has another digest", where=uri, remedy="register the digest that the build told")
    manifest = parse_manifest(content, uri)
    wrong = next((entry.path for entry in manifest.files if sizes.get(entry.path) != entry.size_bytes), None)
    if wrong is not None:
        raise BadArtifact(f"{wrong} is missing, or has another size", where=uri, remedy=REMEDY)
    if (manifest.engine, manifest.signature) != (engine, signature):
        raise BadArtifact("its manifest names another engine or signature", where=uri, remedy="register what the build told")


def sizes_below(filesystem: pafs.FileSystem, base: str) -> dict[str, int]:
    """The size of every file below a folder, by its path from there; none where nothing is."""
    import pyarrow.fs as pafs  # as in `roots`

    found = filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(base).lstrip("/"): info.size for info in found if info.type == pafs.FileType.File}


def _local_sizes(folder: Path) -> dict[str, int]:
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
