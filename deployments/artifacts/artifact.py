"""The artifact: a directory that holds one immutable version.

    manifest.json   what is in it: signature, engine, steps, source, and the SHA-256 of every other file
    model.onnx      (engine onnx) or model.pt2 (engine torch), with any external data beside it
    samples.npz     sample rows: `in.NAME` and `out.NAME` arrays, replayed at load
    report.json     how it was evaluated
    report.html     the same, to read

Content-addressed: its digest is the SHA-256 of manifest.json's bytes, and its folder is named by it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import orjson
import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from cluster.errors import BadArtifact, NoCapacity, Unreachable
from cluster.signature import Signature
from cluster.versions import check_name
from deployments.engines.datatypes import Array

MANIFEST = "manifest.json"
SAMPLES = "samples.npz"
REPORT = "report.json"
PAGE = "report.html"

_REMEDY = "build the version again, or restore its files"


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


@dataclass(frozen=True, slots=True)
class Artifact:
    """A written artifact: where it is, the SHA-256 of its manifest, and the manifest."""

    uri: str
    digest: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows that a version was seen to score: inputs and the answers they must give, all with the same n rows."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


def write_artifact(
    root: str | Path,
    *,
    model: str,
    engine: str,
    signature: Signature,
    files: Mapping[str, Path],
    samples: Samples,
    report: Mapping[str, Any],
    page: str = "",
    source: Mapping[str, Any],
    steps: tuple[dict[str, Any], ...] = (),
    sample_tolerance: float = 1e-4,
) -> Artifact:
    """Packages a version as `ROOT/MODEL/DIGEST`; `files` maps paths inside the artifact to the files to copy.

    `root` is a local path or any pyarrow filesystem URI. The artifact appears whole or not at all: locally by one rename,
    elsewhere by writing the manifest last. Raises NoCapacity on a full disk, Unreachable where the root can't be written.
    """
    check_name(model, what="model")
    with _Staging(root) as staging:
        for name, path in files.items():
            target = staging / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        _save_samples(staging / SAMPLES, samples)
        (staging / REPORT).write_bytes(orjson.dumps(dict(report), option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
        if page:
            (staging / PAGE).write_text(page)
        manifest = Manifest(
            model=model,
            engine=engine,
            signature=signature,
            files=tuple(_entry(staging, path) for path in sorted(p for p in staging.rglob("*") if p.is_file())),
            source=dict(source),
            steps=steps,
            sample_tolerance=sample_tolerance,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        content = manifest.model_dump_json(indent=2).encode()
        (staging / MANIFEST).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        uri = _publish(staging, root, model, digest)
    return Artifact(uri, digest, manifest)


class _Staging:
    """A directory next to where the artifact will stand, so that a rename is enough; gone at the end, whatever happens."""

    def __init__(self, root: str | Path) -> None:
        self._root = root
        self._path: Path | None = None

    def __enter__(self) -> Path:
        local = _local_path(self._root)
        try:
            if local is not None:
                local.mkdir(parents=True, exist_ok=True)
            self._path = Path(tempfile.mkdtemp(prefix=".staging-", dir=local))
        except OSError as error:
            raise _write_error(error, str(self._root)) from error
        return self._path

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
        if isinstance(error, OSError):
            raise _write_error(error, str(self._root)) from error


def _write_error(error: OSError, where: str) -> NoCapacity | Unreachable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoCapacity("no space left to package the version", where=where, remedy="free some space, or choose another place")
    return Unreachable(f"the artifact can't be written: {error}", where=where, remedy="check the path and its permissions")


def _publish(staging: Path, root: str | Path, model: str, digest: str) -> str:
    local = _local_path(root)
    if local is None:
        filesystem, base = _remote(str(root))
        target = f"{base}/{model}/{digest}"
        try:
            filesystem.create_dir(target, recursive=True)
            for path in sorted(staging.rglob("*"), key=lambda p: p.name == MANIFEST):
                if path.is_file():
                    relative = path.relative_to(staging).as_posix()
                    filesystem.create_dir(f"{target}/{PurePosixPath(relative).parent}", recursive=True)
                    pafs.copy_files(str(path), f"{target}/{relative}", pafs.LocalFileSystem(), filesystem)
        except OSError:
            with contextlib.suppress(OSError):  # the first failure is the one to tell
                filesystem.delete_dir(target)
            raise
        return f"{str(root).rstrip('/')}/{model}/{digest}"
    target_path = local / model / digest
    target_path.parent.mkdir(parents=True, exist_ok=True)
    for path in staging.rglob("*"):
        if path.is_file():
            _sync(path)
    staging.chmod(0o755)
    os.rename(staging, target_path)
    _sync(target_path.parent)
    return str(target_path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entry(base: Path, path: Path) -> FileEntry:
    return FileEntry(path=path.relative_to(base).as_posix(), sha256=file_digest(path), size_bytes=path.stat().st_size)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex; for a folder that of its files' paths and digests."""
    if path.is_dir():
        files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return hashlib.sha256("".join(f"{file_digest(path / name)} {name}\n" for name in files).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(path: Path) -> Manifest:
    """Reads manifest.json of the artifact at `path`. Raises BadArtifact where it is missing or makes no sense."""
    return _parse_manifest(_manifest_bytes(path), path)


def _manifest_bytes(path: Path) -> bytes:
    try:
        return (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BadArtifact("no manifest: this is no artifact", where=str(path / MANIFEST), remedy=_REMEDY) from error


def _parse_manifest(content: bytes, path: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadArtifact(f"bad manifest: {field} {first['msg']}", where=str(path / MANIFEST), remedy=_REMEDY) from error
    if manifest.format != 1:
        raise BadArtifact(
            f"format {manifest.format} is unknown", where=str(path / MANIFEST), remedy="use the Headrace release that built it"
        )
    return manifest


def verify(path: Path, digest: str | None = None) -> Manifest:
    """Checks every file of the artifact at `path` against its manifest, and the manifest against `digest` where given.

    Returns the manifest. Raises BadArtifact that names the first file that is missing or differs.
    """
    content = _manifest_bytes(path)
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise BadArtifact("the manifest is not the registered one", where=str(path / MANIFEST), remedy=_REMEDY)
    manifest = _parse_manifest(content, path)
    for entry in manifest.files:
        file = path / entry.path
        try:
            same = file.stat().st_size == entry.size_bytes and file_digest(file) == entry.sha256
        except OSError as error:
            raise BadArtifact(f"{entry.path} can't be read: {error}", where=str(file), remedy=_REMEDY) from error
        if not same:
            raise BadArtifact(f"{entry.path} is damaged: its digest differs", where=str(file), remedy=_REMEDY)
    return manifest


def check_registered(uri: str, digest: str, engine: str, signature: Signature) -> None:
    """Raises BadArtifact unless an artifact with that manifest stands at `uri`, says the same of itself, and has all its files in
    their sizes; Unreachable where the place can't be asked. Reads the manifest alone: replicas check every byte."""
    local = _local_path(uri)
    try:
        if local is not None:
            content, sizes = _manifest_bytes(local), _sizes(pafs.LocalFileSystem(), str(local))
        else:
            filesystem, base = _remote(uri)
            if filesystem.get_file_info(f"{base}/{MANIFEST}").type != pafs.FileType.File:
                raise BadArtifact("no manifest: this is no artifact", where=uri, remedy=_REMEDY)
            with filesystem.open_input_stream(f"{base}/{MANIFEST}") as stream:
                content = stream.read()
            sizes = _sizes(filesystem, base)
    except OSError as error:
        raise Unreachable(
            f"the artifact can't be read: {error}", where=uri, remedy="check the path and its permissions"
        ) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise BadArtifact("its manifest has another digest", where=uri, remedy="register the digest that the build told")
    manifest = _parse_manifest(content, Path(uri))
    wrong = next((entry.path for entry in manifest.files if sizes.get(entry.path) != entry.size_bytes), None)
    if wrong is not None:
        raise BadArtifact(f"{wrong} is missing, or has another size", where=uri, remedy=_REMEDY)
    if (manifest.engine, manifest.signature) != (engine, signature):
        raise BadArtifact("its manifest names another engine or signature", where=uri, remedy="register what the build told")


def _sizes(filesystem: pafs.FileSystem, base: str) -> dict[str, int]:
    """Every file below a folder, by its path from there."""
    found = filesystem.get_file_info(pafs.FileSelector(base, recursive=True))
    return {info.path.removeprefix(base).lstrip("/"): info.size for info in found if info.type == pafs.FileType.File}


def localize(uri: str, digest: str, *, cache: Path | None = None) -> Path:
    """Returns a local, verified directory of the artifact at `uri`.

    A local one is used where it stands. A remote one (any pyarrow filesystem URI) is fetched once into `cache`, by default
    `~/.cache/headrace/artifacts`; several processes may do so at a time. Raises BadArtifact, Unreachable, NoCapacity.
    """
    local = _local_path(uri)
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
    with _Staging(target.parent) as staging:
        filesystem, base = _remote(uri)
        if filesystem.get_file_info(f"{base}/{MANIFEST}").type != pafs.FileType.File:
            raise BadArtifact("no manifest: this is no artifact", where=uri, remedy=_REMEDY)
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
    local = _local_path(uri)
    try:
        if local is not None:
            if (local / MANIFEST).exists():
                shutil.rmtree(local)
            return
        filesystem, base = _remote(uri)
        if filesystem.get_file_info(base).type == pafs.FileType.Directory:
            filesystem.delete_dir(base)
    except OSError as error:
        raise Unreachable(
            f"the artifact can't be removed: {error}", where=uri, remedy="check the path and its permissions"
        ) from error


def read_samples(path: Path) -> Samples:
    """Reads the sample rows of the artifact at `path`. Raises BadArtifact."""
    file = path / SAMPLES
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise BadArtifact(f"bad sample rows: {error}", where=str(file), remedy=_REMEDY) from error
    return Samples(inputs=_with_prefix(arrays, "in."), outputs=_with_prefix(arrays, "out."))


def _save_samples(file: Path, samples: Samples) -> None:
    arrays = {f"in.{name}": value for name, value in samples.inputs.items()}
    arrays |= {f"out.{name}": value for name, value in samples.outputs.items()}
    # Object arrays would need pickle: BYTES are kept as fixed-width strings with their lengths.
    for name in [name for name, value in arrays.items() if value.dtype == np.object_]:
        value = arrays.pop(name)
        joined = b"".join(value.ravel().tolist())
        arrays[f"{name}.bytes"] = np.frombuffer(joined, dtype=np.uint8)
        arrays[f"{name}.lengths"] = np.array([len(item) for item in value.ravel().tolist()], dtype=np.int64).reshape(value.shape)
    with file.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def _with_prefix(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for key, value in arrays.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name.endswith(".bytes"):
            continue
        if name.endswith(".lengths"):
            found[name.removesuffix(".lengths")] = _split_bytes(arrays[key.removesuffix(".lengths") + ".bytes"], value)
        else:
            found[name] = value
    return found


def _split_bytes(joined: Array, lengths: Array) -> Array:
    ends = np.cumsum(lengths.ravel())
    data = joined.tobytes()
    items = np.empty(lengths.size, dtype=np.object_)
    items[:] = [data[end - length : end] for end, length in zip(ends.tolist(), lengths.ravel().tolist(), strict=True)]
    return items.reshape(lengths.shape)


def _remote(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a URI and the path on it."""
    try:
        return pafs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
    except (ValueError, OSError) as error:
        raise Unreachable(f"no such place: {error}", where=uri, remedy="use a path, s3://, gs:// or hdfs://") from error


def _local_path(root: str | Path) -> Path | None:
    """The path of a local root, with or without `file://`; None for another filesystem."""
    text = str(root)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return None if "://" in text else Path(text).absolute()
