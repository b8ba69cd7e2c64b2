"""Packages a version: the artifact appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import orjson
import pyarrow.fs as pafs

from cluster.errors import NoCapacity, Unreachable
from cluster.signature import Signature
from cluster.versions import check_name
from deployments.artifacts.background import save_background
from deployments.artifacts.manifest import (
    KEYS,
    MANIFEST,
    PAGE,
    PLAIN_FORMAT,
    PROVENANCE,
    REPORT,
    SAMPLES,
    SEALED_FORMAT,
    FileEntry,
    Manifest,
    file_digest,
)
from deployments.artifacts.profile import save_profile
from deployments.artifacts.roots import below, local_path, remote, sync_file
from deployments.artifacts.samples import Samples, save_samples
from deployments.artifacts.sealing.making import seal_files
from deployments.artifacts.version_files import Provenance
from deployments.explain.form import Background
from deployments.keys.port import KeyHolder
from deployments.profiles.form import Profile

# Told the manifest and its bytes, it gives files to lie beside it, by name: signatures.
Attest = Callable[[Manifest, bytes], Mapping[str, bytes]]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A written artifact: where it is, the SHA-256 of its manifest, and the manifest."""

    uri: str
    digest: str
    manifest: Manifest


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
    profile: Profile | None = None,
    background: Background | None = None,
    source: Mapping[str, Any],
    steps: tuple[dict[str, Any], ...] = (),
    sample_tolerance: float = 1e-4,
    seal_for: Sequence[KeyHolder] = (),
    attest: Attest | None = None,
) -> Artifact:
    """Packages a version as `ROOT/MODEL/DIGEST`; `files` maps paths inside the artifact to the files to copy.

    `root` is a local path or any pyarrow filesystem URI. The artifact appears whole or not at all: locally by one rename,
    elsewhere by writing the manifest last. With `seal_for`, whoever holds one of these keys can open it, and nobody else: then
    nothing is written below `root` that is not encrypted.

    Raises NoCapacity on a full disk, Unreachable where the root can't be written; of the service that holds a key Unreachable,
    Forbidden.
    """
    check_name(model, what="model")
    with _Staging(root) as staging, _described(staging, sealed=bool(seal_for)) as described:
        save_samples(described / SAMPLES, samples)
        (described / REPORT).write_bytes(orjson.dumps(dict(report), option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
        if page:
            (described / PAGE).write_text(page, encoding="utf-8")
        if profile:
            save_profile(described, profile)
        if background:
            save_background(described, background)
        provenance = Provenance(source=dict(source), steps=steps)
        if seal_for:
            (described / PROVENANCE).write_text(provenance.model_dump_json(indent=2), encoding="utf-8")
            every = {**{path.name: path for path in described.iterdir()}, **files}
            seal = seal_files(every, staging, model, seal_for)
        else:
            seal = None
            _copy(files, staging)
        manifest = Manifest(
            format=SEALED_FORMAT if seal else PLAIN_FORMAT,
            model=model,
            engine=engine,
            signature=signature,
            files=tuple(_entry(staging, path) for path in _listed(staging)),
            source={} if seal else provenance.source,
            steps=() if seal else provenance.steps,
            sample_tolerance=sample_tolerance,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seal=seal,
        )
        content = manifest.content
        (staging / MANIFEST).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        for name, attested in (attest(manifest, content) if attest else {}).items():
            (staging / name).write_bytes(attested)
        uri = _publish(staging, root, model, digest)
    return Artifact(uri, digest, manifest)


@contextlib.contextmanager
def _described(staging: Path, *, sealed: bool) -> Iterator[Path]:
    """Where what describes a version is written in clear: of a sealed one never beside where it will stand."""
    if not sealed:
        yield staging
        return
    with tempfile.TemporaryDirectory(prefix="headrace-seal-") as folder:
        yield Path(folder)


def _copy(files: Mapping[str, Path], staging: Path) -> None:
    for name, path in files.items():
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _listed(staging: Path) -> list[Path]:
    """What the manifest tells: not whom the version is sealed for."""
    return sorted(path for path in staging.rglob("*") if path.is_file() and path != staging / KEYS)


class _Staging:
    """A directory next to where the artifact will stand, so that a rename is enough; gone at the end, whatever happens."""

    def __init__(self, root: str | Path) -> None:
        self._root = root
        self._path: Path | None = None

    def __enter__(self) -> Path:
        local = local_path(self._root)
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
    local = local_path(root)
    if local is None:
        filesystem, base = remote(str(root))
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
        return below(str(root), model, digest)
    target_path = local / model / digest
    target_path.parent.mkdir(parents=True, exist_ok=True)
    for path in staging.rglob("*"):
        if path.is_file():
            sync_file(path)
    staging.chmod(0o755)
    os.rename(staging, target_path)
    sync_file(target_path.parent)
    return str(target_path)


def _entry(base: Path, path: Path) -> FileEntry:
    return FileEntry(path=path.relative_to(base).as_posix(), sha256=file_digest(path), size_bytes=path.stat().st_size)
