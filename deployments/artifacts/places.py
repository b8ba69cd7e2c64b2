"""Files on any pyarrow filesystem: found by URI, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.fs as pafs

from cluster.errors import BadInput, HeadraceError, NoCapacity, Unreachable
from deployments.artifacts.roots import sync_file

# Object stores make a written object visible only when it is closed, and have no cheap rename.
RESUME = "free some space, then `headrace batch resume` goes on from here"
FULL = (errno.ENOSPC, errno.EDQUOT)
_OBJECT_STORES = ("s3", "gcs", "abfs")


@dataclass(frozen=True, slots=True)
class Place:
    """A path on a filesystem, without a slash at its end."""

    filesystem: pafs.FileSystem
    path: str

    def __truediv__(self, name: str) -> Place:
        return Place(self.filesystem, f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.path

    @property
    def parent(self) -> Place:
        """The folder that holds it."""
        return Place(self.filesystem, self.path.rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def is_local(self) -> bool:
        """Whether it lies on a filesystem of this machine."""
        return str(_base(self.filesystem).type_name) == "local"

    @property
    def is_object_store(self) -> bool:
        """Whether a file appears by being closed, not by a rename."""
        return str(_base(self.filesystem).type_name) in _OBJECT_STORES

    def info(self) -> pafs.FileInfo:
        """What is there; `info().type` is NotFound where nothing is."""
        return self.filesystem.get_file_info(self.path)

    def exists(self) -> bool:
        """Whether a file or directory is there."""
        return bool(self.info().type != pafs.FileType.NotFound)

    def files(self) -> list[pafs.FileInfo]:
        """All files below it, sorted by path; none where nothing is."""
        selector = pafs.FileSelector(self.path, recursive=True, allow_not_found=True)
        found = [info for info in self.filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
        return sorted(found, key=lambda info: str(info.path))

    def children(self) -> list[str]:
        """The names of what lies directly in it, sorted; none where nothing is."""
        selector = pafs.FileSelector(self.path, recursive=False, allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def make(self) -> None:
        """Makes it a directory, with those above it. Safe to repeat."""
        self.filesystem.create_dir(self.path, recursive=True)

    def remove(self) -> None:
        """Removes the directory with all that is in it. Nothing happens where there is none."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    def remove_file(self) -> None:
        """Removes the file. Nothing happens where there is none."""
        if self.exists():
            self.filesystem.delete_file(self.path)

    def read(self) -> bytes:
        """The whole content. Raises FileNotFoundError where there is none."""
        with self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    def write(self, content: bytes, *, lasting: bool = False) -> None:
        """Replaces the content in one step: a reader sees the old one or the new one. `lasting`: see `writing`."""
        with self.writing(self.parent, lasting=lasting) as sink:
            sink.write(content)

    @contextmanager
    def writing(self, scratch: Place, *, lasting: bool = False) -> Iterator[DigestSink]:
        """A sink whose content appears here when the block ends well, and nowhere when it fails.

        `scratch` is a directory on the same filesystem, for the file while it is incomplete. What is `lasting` is the old or the
        new content after a loss of power too, on a disk of this machine.
        """
        synced = lasting and isinstance(_base(self.filesystem), pafs.LocalFileSystem)
        path = self.path if self.is_object_store else f"{scratch.path}/.{self.name}.{secrets.token_hex(4)}"
        sink = DigestSink(self.filesystem.open_output_stream(path))
        try:
            yield sink
            sink.finish()
            if synced:
                sync_file(path)
            if path != self.path:
                self.filesystem.move(path, self.path)
            if synced:
                sync_file(self.parent.path)
        except BaseException:
            sink.abandon()
            if not self.is_object_store:
                self.filesystem.delete_file(path)
            raise


class DigestSink:
    """A binary sink that counts and digests what passes; enough of a file for pyarrow."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self._abandoned = False
        self.size_bytes = 0
        self.closed = False

    def write(self, content: Any) -> int:
        """Takes the bytes of any buffer."""
        view = memoryview(content)
        if self._abandoned:  # a Parquet writer that is thrown away still ends its file
            return view.nbytes
        self._sha256.update(view)
        self._stream.write(view)
        self.size_bytes += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        """Nothing is kept back here."""

    def close(self) -> None:
        """Writers close their sink; the file is closed by `finish`."""
        self.closed = True

    def finish(self) -> None:
        """Closes the file: it is whole."""
        self._stream.close()

    def abandon(self) -> None:
        """Closes the file where it failed or nobody wants it; its content is worthless."""
        self._abandoned = True
        try:
            self._stream.close()
        except OSError as error:
            # A full disk fails again here; the first failure is the one to tell.
            if error.errno not in FULL:
                raise

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._sha256.hexdigest()

    def as_file(self) -> IO[bytes]:
        """Itself, as the type that writers ask for."""
        return cast(IO[bytes], self)


def locate(uri: str) -> Place:
    """The place that a path or a pyarrow filesystem URI names. Raises BadInput for a URI that pyarrow does not know."""
    if "://" not in uri:
        return Place(pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri)))
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(
            str(error), where=uri, remedy="use a path, or a URI of a filesystem that pyarrow knows, such as s3://"
        ) from error
    return Place(filesystem, path.rstrip("/"))


def parquet_files(uri: str) -> list[Place]:
    """The Parquet files of a file or folder, by any URI that pyarrow knows, sorted by path. In a folder, what is hidden is left
    out, and what lies in hidden folders: a batch keeps there what it has not published."""
    place = locate(uri)
    with explaining(uri):
        paths = [place.path] if place.name.endswith(".parquet") and place.exists() else [str(one.path) for one in place.files()]
    found = [Place(place.filesystem, path) for path in paths if path.endswith(".parquet")]
    return [one for one in found if "/." not in one.path.removeprefix(place.path)]


def _base(filesystem: pafs.FileSystem) -> pafs.FileSystem:
    return _base(filesystem.base_fs) if isinstance(filesystem, pafs.SubTreeFileSystem) else filesystem


@contextmanager
def explaining(where: str, when_full: str = RESUME) -> Iterator[None]:
    """Turns what a filesystem raises into errors that say what to do, and `when_full` where the disk is full."""
    try:
        yield
    except HeadraceError:
        raise
    except PermissionError as error:
        raise BadInput("permission denied", where=where, remedy="give this user the right, or choose another path") from error
    except FileNotFoundError as error:
        raise BadInput("no such file or directory", where=where, remedy="check the path") from error
    except OSError as error:
        if error.errno in FULL:
            raise NoCapacity("the disk is full", where=where, remedy=when_full) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BadInput(str(error), where=where, remedy="give this user the right, or choose another path") from error
        raise Unreachable(str(error), where=where, remedy="try again, or check the storage") from error
