"""Where artifacts are kept: a local folder, any filesystem that pyarrow knows by its URI, or a registry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import Unreachable

if TYPE_CHECKING:
    import pyarrow.fs as pafs


def remote(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a URI and the path on it."""
    import pyarrow.fs as pafs  # 30 MB, which a replica of a local artifact goes without

    try:
        return pafs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
    except (ValueError, OSError) as error:
        raise Unreachable(f"no such place: {error}", where=uri, remedy="use a path, s3://, gs:// or hdfs://") from error


def below(root: str, *names: str) -> str:
    """The URI of what lies below that one: what it says of its store, behind a `?`, stays at the end. Pure."""
    place, mark, options = root.partition("?")
    return "/".join((place.rstrip("/"), *names)) + mark + options


def is_in_registry(uri: str) -> bool:
    """Whether it names a version in a registry, `oci://HOST/NAME:TAG` or `@sha256:HEX`. Pure."""
    return uri.startswith("oci://")


def local_path(root: str | Path) -> Path | None:
    """The path of a local root, with or without `file://`; None for another filesystem."""
    text = str(root)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return None if "://" in text else Path(text).absolute()


def sync_file(path: str | os.PathLike[str]) -> None:
    """Returns once the file, or the names in the folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
