"""Layers: a tar of files, the same bytes for the same files on any day and machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from deployments.oci.descriptors import GZIP_LAYER_TYPE, LAYER_TYPE, Descriptor
from deployments.oci.layout import Layout

# What went into a layer, as a digest: a later build that would put in the same takes the layer as it is.
INPUTS = "dev.headrace.layer.inputs"
NAME = "dev.headrace.layer.name"
DIFF_ID = "dev.headrace.layer.diff-id"
GZIP_LEVEL = 4  # of wheels, level 6 takes twice as long for 2 % less


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """One file of a layer, by its path in the image without the leading slash: a file here, or bytes; None: a folder that is
    closed to all but its owner, a number of user and group."""

    path: str
    content: Path | bytes | None
    executable: bool = False
    owner: int = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer in a layout. `diff_id` is its tar's digest, `unpacked_bytes` that tar's size; `reused`: it was there."""

    name: str
    descriptor: Descriptor
    diff_id: str
    unpacked_bytes: int = 0
    reused: bool = False


class _Told:
    """Hashes and counts what is written through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        self.size_bytes += len(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self.sha256.hexdigest()}"


def write_layer(layout: Layout, name: str, entries: Iterable[LayerEntry], *, inputs: str = "", compressed: bool = True) -> Layer:
    """Writes a layer of these files; their folders are made, owned by root. Raises NoCapacity, Unreachable."""
    with layout.writing() as file:
        outer = _Told(file)
        if compressed:
            # mtime and name would make another blob each time.
            with gzip.GzipFile(
                filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=cast("BinaryIO", outer), mtime=0
            ) as press:
                inner = _Told(cast("BinaryIO", press))
                _write_tar(inner, entries)
        else:
            inner = outer
            _write_tar(inner, entries)
        layout.keep(file, outer.digest)
    annotations = {NAME: name, DIFF_ID: inner.digest} | ({INPUTS: inputs} if inputs else {})
    kind = GZIP_LAYER_TYPE if compressed else LAYER_TYPE
    return Layer(name, Descriptor(kind, outer.digest, outer.size_bytes, annotations), inner.digest, inner.size_bytes)


def press_tar(layout: Layout, name: str, tar: Path) -> Layer:
    """Makes a tar that somebody else wrote a layer, as it is."""
    with layout.writing() as file, tar.open("rb") as source:
        outer = _Told(file)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=cast("BinaryIO", outer), mtime=0) as press:
            inner = _Told(cast("BinaryIO", press))
            while chunk := source.read(1 << 20):
                inner.write(chunk)
        layout.keep(file, outer.digest)
    annotations = {NAME: name, DIFF_ID: inner.digest}
    return Layer(name, Descriptor(GZIP_LAYER_TYPE, outer.digest, outer.size_bytes, annotations), inner.digest, inner.size_bytes)


def _write_tar(target: _Told, entries: Iterable[LayerEntry]) -> None:
    made: set[str] = set()
    with tarfile.open(fileobj=cast("BinaryIO", target), mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:
        for entry in sorted(entries, key=lambda entry: PurePosixPath(entry.path).parts):
            for folder in reversed(PurePosixPath(entry.path).parents[:-1]):
                if str(folder) not in made:
                    made.add(str(folder))
                    tar.addfile(_info(str(folder), tarfile.DIRTYPE, 0o755, 0))
            mode = 0o755 if entry.executable else 0o644
            if entry.content is None:
                made.add(entry.path)
                folder_info = _info(entry.path, tarfile.DIRTYPE, 0o700, 0)
                folder_info.uid = folder_info.gid = entry.owner
                tar.addfile(folder_info)
                continue
            if isinstance(entry.content, bytes):
                tar.addfile(_info(entry.path, tarfile.REGTYPE, mode, len(entry.content)), io.BytesIO(entry.content))
                continue
            with entry.content.open("rb") as file:
                tar.addfile(_info(entry.path, tarfile.REGTYPE, mode, entry.content.stat().st_size), file)


def _info(path: str, kind: bytes, mode: int, size_bytes: int) -> tarfile.TarInfo:
    # Owned by root, at the epoch's begin, without names: nothing of who makes it, and when.
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.size = kind, mode, size_bytes
    return info


def files_below(folder: Path, under: str, *, without: Iterable[str] = ("__pycache__",)) -> Iterator[LayerEntry]:
    """All files below a folder as entries under a path of the image, links followed."""
    left_out = set(without)
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and not left_out & set(relative.parts):
            yield LayerEntry(f"{under}/{relative.as_posix()}", path, bool(path.stat().st_mode & 0o100))


def reusable(layout: Layout, layers: Iterable[Descriptor], inputs: str) -> Layer | None:
    """A layer of these that was made of the same inputs and is whole."""
    for one in layers:
        if one.annotations.get(INPUTS) == inputs and DIFF_ID in one.annotations and layout.is_whole(one):
            return Layer(one.annotations.get(NAME, ""), one, one.annotations[DIFF_ID], 0, reused=True)
    return None
