"""Which files are the input's data."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.fs as pafs

from cluster.errors import BadInput
from consumers.batch.spec import BatchInput
from deployments.artifacts.places import Place, explaining, locate

_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Listing:
    """Data files by path with the root below which their folders have a meaning, and the paths of files that are no data."""

    data: dict[str, tuple[pafs.FileInfo, str]]
    others: tuple[str, ...]


def list_data(spec: BatchInput) -> tuple[Place, Listing]:
    """Where the input lies and what is there. Blocks. Raises BadInput where nothing is data."""
    places = [locate(path) for path in spec.paths]
    if len({place.filesystem.type_name for place in places}) > 1:
        raise BadInput("the paths lie on different filesystems", where="spec.input.path", remedy="make one batch of each")
    data: dict[str, tuple[pafs.FileInfo, str]] = {}
    others: set[str] = set()
    for place in places:
        root = _fixed_part(place.path)
        for info, is_data in _list(place, spec.files):
            if is_data:
                data.setdefault(info.path, (info, root))
            else:
                others.add(info.path)
    beside = tuple(sorted(others - data.keys()))
    if not data:
        told = f"; {len(beside):,} other files are there, e.g. {beside[0].rpartition('/')[2]}" if beside else ""
        raise BadInput(
            f"no Parquet files there{told}",
            where=", ".join(spec.paths),
            remedy=f"check spec.input.path, and spec.input.files, which is {spec.files!r}",
        )
    return Place(places[0].filesystem, _fixed_part(places[0].path)), Listing(data, beside)


def covers(spec: BatchInput, place: Place) -> bool:
    """Whether a file below `place` would be read as input, or `place` holds the input."""
    for path in spec.paths:
        source = locate(path)
        if source.filesystem.type_name != place.filesystem.type_name:
            continue
        root = _fixed_part(source.path)
        if f"{root}/".startswith(f"{place.path}/"):
            return True
        inside = place.path.startswith(f"{root}/")
        if inside and (not _GLOB.search(source.path) or _match(source.path, f"{place.path}/part.parquet")):
            return True
    return False


def _list(place: Place, pattern: str) -> list[tuple[pafs.FileInfo, bool]]:
    with explaining(place.path):
        if _GLOB.search(place.path):
            root = _fixed_part(place.path)
            # A last part that says nothing of the name leaves it to the pattern.
            named = "*" if place.path.rpartition("/")[2].strip("*") else pattern
            below = Place(place.filesystem, root).files()
            return [(info, _is_data(info.path, root, named)) for info in below if _match(place.path, info.path)]
        info = place.info()
        if info.type == pafs.FileType.NotFound:
            raise BadInput("no such file or directory", where=place.path, remedy="check spec.input.path")
        if info.type == pafs.FileType.File:
            return [(info, True)]
        return [(found, _is_data(found.path, place.path, pattern)) for found in place.files()]


def _is_data(path: str, root: str, pattern: str) -> bool:
    """Names that begin with a dot or an underscore are not data, as for Spark: but for hive folders such as `_year=2024`."""
    *folders, name = path[len(root) :].strip("/").split("/")
    hidden = any(folder.startswith(".") or (folder.startswith("_") and "=" not in folder) for folder in folders)
    return not hidden and not name.startswith((".", "_")) and fnmatch.fnmatchcase(name, pattern)


def _fixed_part(path: str) -> str:
    kept = []
    for part in path.split("/"):
        if _GLOB.search(part):
            break
        kept.append(part)
    return "/".join(kept)


def _match(pattern: str, path: str) -> bool:
    """As a shell does: `*` stays within a directory, `**` crosses any number of them."""
    return _match_parts(pattern.split("/"), path.split("/"))


def _match_parts(pattern: Sequence[str], path: Sequence[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_match_parts(pattern[1:], path[at:]) for at in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _match_parts(pattern[1:], path[1:])
