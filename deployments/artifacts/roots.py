"""Where artifacts are kept: a local folder, or any filesystem that pyarrow knows by its URI."""

from __future__ import annotations

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


def local_path(root: str | Path) -> Path | None:
    """The path of a local root, with or without `file://`; None for another filesystem."""
    text = str(root)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    return None if "://" in text else Path(text).absolute()
