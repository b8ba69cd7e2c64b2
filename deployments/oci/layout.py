"""An OCI layout: a folder with `oci-layout`, `index.json` and `blobs/sha256/HEX`. A tag appears last, and in one step."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from cluster.errors import BadArtifact, Conflict, NoCapacity, NotFound, Unreachable
from deployments.oci.descriptors import INDEX_TYPE, INDEX_TYPES, MANIFEST_TYPES, TAG, Descriptor, digest_of, encoded, parsed

CHUNK_BYTES = 1 << 20
DOCUMENT_MOST_BYTES = 16 << 20
_PARTIAL, _BUILDING = ".partial-", ".building-"
REMEDY = "make it again, or copy it again from where it came"


@contextmanager
def told_of_disk(where: Path) -> Iterator[None]:
    """Turns what the disk refuses into our words. Raises NoCapacity, Unreachable."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoCapacity("no space left", where=str(where), remedy="free some space, or name a folder elsewhere") from error
        raise Unreachable(
            f"can't be read or written: {error}", where=str(where), remedy="check the path and its permissions"
        ) from error


class Layout:
    """One layout. Blobs are named by what is in them, so writing one again changes nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._apart: Path | None = None  # where a build's blobs are until a tag names them

    def path(self, digest: str) -> Path:
        """Where the blob of that digest is, or would be."""
        name = digest.removeprefix("sha256:")
        apart = None if self._apart is None else self._apart / name
        return apart if apart is not None and apart.exists() else self._blobs / name

    def has(self, one: Descriptor) -> bool:
        """Whether the blob is here, in its size."""
        path = self.path(one.digest)
        return path.is_file() and path.stat().st_size == one.size_bytes

    def prepare(self) -> None:
        """Makes the folders; what else is in them stays. Raises NoCapacity, Unreachable."""
        with told_of_disk(self.folder):
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._replace("oci-layout", encoded({"imageLayoutVersion": "1.0.0"}))

    @contextmanager
    def building(self) -> Iterator[Path]:
        """Keeps other builds out while the block runs, and its blobs apart until a tag names them.

        Of a build that fails nothing stays, and of one that is killed nothing beyond the next.

        Yields a folder for what it needs meanwhile. Raises Conflict where another one builds here, NoCapacity, Unreachable.
        """
        self.prepare()
        with (
            told_of_disk(self.folder),
            _alone(self.folder),
            tempfile.TemporaryDirectory(prefix=_BUILDING, dir=self.folder) as apart,
        ):
            self._apart = Path(apart) / "blobs"
            self._apart.mkdir()
            try:
                yield Path(apart)
            finally:
                self._apart = None

    @contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """A file for a blob that grows; give it its name by `keep` before the end, or it is gone."""
        with told_of_disk(self.folder):
            handle, name = tempfile.mkstemp(prefix=_PARTIAL, dir=self._apart or self._blobs)
            os.close(handle)
            try:
                with open(name, "w+b") as file:
                    yield file
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(name)

    def keep(self, file: BinaryIO, digest: str) -> None:
        """The file becomes the blob of that digest."""
        file.flush()
        os.fsync(file.fileno())
        os.chmod(file.name, 0o644)
        os.rename(file.name, (self._apart or self._blobs) / digest.removeprefix("sha256:"))

    def add(self, content: bytes, media_type: str, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """Writes a blob from memory: a document."""
        one = Descriptor(media_type, digest_of(content), len(content), dict(annotations or {}))
        if not self.has(one):
            with self.writing() as file:
                file.write(content)
                self.keep(file, one.digest)
        return one

    def take(self, source: BinaryIO, one: Descriptor, where: str) -> None:
        """Writes a blob that somebody else described. Raises BadArtifact where it is another one."""
        told, size = hashlib.sha256(), 0
        with self.writing() as file:
            while chunk := source.read(CHUNK_BYTES):
                told.update(chunk)
                size += len(chunk)
                if size > one.size_bytes:
                    break
                file.write(chunk)
            if size != one.size_bytes or f"sha256:{told.hexdigest()}" != one.digest:
                raise BadArtifact(f"{one.digest[:19]} is damaged: its digest differs", where=where, remedy=REMEDY)
            self.keep(file, one.digest)

    def document(self, one: Descriptor) -> dict[str, Any]:
        """A document among the blobs, checked against its digest. Raises BadArtifact."""
        where = str(self.folder)
        if one.size_bytes > DOCUMENT_MOST_BYTES:
            raise BadArtifact(f"{one.digest[:19]} is too large for a document", where=where, remedy=REMEDY)
        try:
            content = self.path(one.digest).read_bytes()
        except OSError as error:
            raise BadArtifact(f"{one.digest[:19]} is missing", where=where, remedy=REMEDY) from error
        if digest_of(content) != one.digest:
            raise BadArtifact(f"{one.digest[:19]} is damaged: its digest differs", where=where, remedy=REMEDY)
        return parsed(content, where)

    def check(self, one: Descriptor) -> None:
        """Raises BadArtifact where the blob is missing or differs."""
        where = str(self.folder)
        try:
            with self.path(one.digest).open("rb") as file:
                same = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == one.digest
        except OSError as error:
            raise BadArtifact(f"{one.digest[:19]} is missing", where=where, remedy=REMEDY) from error
        if not same:
            raise BadArtifact(f"{one.digest[:19]} is damaged: its digest differs", where=where, remedy=REMEDY)

    def is_whole(self, one: Descriptor) -> bool:
        """Whether the blob is here, to the byte."""
        try:
            self.check(one)
        except BadArtifact:
            return False
        return True

    def tagged(self) -> list[Descriptor]:
        """What index.json names; nothing where there is no layout yet. Raises BadArtifact."""
        path = self.folder / "index.json"
        if not path.exists():
            return []
        with told_of_disk(path):
            document = parsed(path.read_bytes(), str(path))
        return [Descriptor.read(one, str(path)) for one in document.get("manifests") or []]

    def find(self, tag: str) -> Descriptor:
        """What the tag names. Raises NotFound."""
        found = [one for one in self.tagged() if one.annotations.get(TAG) == tag]
        if not found:
            known = ", ".join(sorted(one.annotations.get(TAG, "") for one in self.tagged()) or ["none"])
            raise NotFound(f"no tag {tag} in this layout", where=str(self.folder), remedy=f"its tags: {known}")
        return found[0]

    def tag(self, one: Descriptor, tag: str) -> None:
        """Points the tag at a manifest, in one step: what it named before goes on being named until then.

        Afterwards that goes, as far as no other tag needs it.
        """
        former = [other for other in self.tagged() if other.annotations.get(TAG) == tag]
        others = [other for other in self.tagged() if other.annotations.get(TAG) != tag]
        named = [*others, replace(one, annotations={**one.annotations, TAG: tag})]
        manifests = [each.document() for each in named]
        with told_of_disk(self.folder):
            for path in sorted(self._apart.iterdir()) if self._apart else ():
                os.rename(path, self._blobs / path.name)
            self._replace("index.json", encoded({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}))
            for digest in self._reached(former) - self._reached(named):
                self.path(digest).unlink(missing_ok=True)

    def _reached(self, tops: Sequence[Descriptor]) -> set[str]:
        """The digests of all that these name, and of what is named there."""
        found: set[str] = set()
        left = [*tops]
        while left:
            one = left.pop()
            if one.digest in found or not self.has(one):
                continue
            found.add(one.digest)
            if one.media_type in (*MANIFEST_TYPES, *INDEX_TYPES):
                with suppress(BadArtifact):  # one that is damaged names nothing
                    document = self.document(one)
                    named = (document.get("config"), *(document.get("layers") or []), *(document.get("manifests") or []))
                    left += [Descriptor.read(each, str(self.folder)) for each in named if each]
        return found

    def _replace(self, name: str, content: bytes) -> None:
        handle, written = tempfile.mkstemp(prefix=_PARTIAL, dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(written, 0o644)
            os.rename(written, self.folder / name)
        except BaseException:
            os.unlink(written)
            raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other builds out, and clears what killed ones have left. Raises Conflict."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                "another build writes here", where=str(folder), remedy="wait for its end, or name another folder"
            ) from error
        for left in folder.glob(f"{_BUILDING}*"):
            shutil.rmtree(left)
        yield
    finally:
        os.close(lock)


def copy_blob(source: Layout, target: Layout, one: Descriptor) -> bool:
    """Takes a blob over, checked; False where it was there. Raises BadArtifact, NoCapacity."""
    if source.folder == target.folder:
        source.check(one)
        return False
    if target.is_whole(one):
        return False
    try:
        file = source.path(one.digest).open("rb")
    except OSError as error:
        raise BadArtifact(f"{one.digest[:19]} is missing", where=str(source.folder), remedy=REMEDY) from error
    with file:
        target.take(file, one, str(source.folder))
    return True
