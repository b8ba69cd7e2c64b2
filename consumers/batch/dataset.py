"""Finds the input's files and reads their footers."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cluster.errors import BadInput
from consumers.batch.places import Place, explaining, locate
from consumers.batch.plan import Damaged, InputFile, RowGroup
from consumers.batch.spec import Input, OnDamage

_READERS = 16  # footers are small reads: waiting, not computing
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Dataset:
    """The files with at least one row group that the filter may match, in order of their paths.

    `schema` is the first file's, with the hive partition keys. `uri` names the filesystem for workers.
    """

    place: Place
    schema: pa.Schema
    files: tuple[InputFile, ...]
    damaged: tuple[Damaged, ...]

    @property
    def rows(self) -> int:
        """Rows in the row groups that are read, before the filter."""
        return sum(file.rows for file in self.files)


def with_date(spec: Input, as_of: date | None) -> Input:
    """Puts the date where the paths and the filter say `{as_of}`. Raises BadInput where they do and there is none."""
    wanted = any("{as_of}" in path for path in spec.paths) or "{as_of}" in repr(spec.filter)
    if not wanted:
        return spec
    if as_of is None:
        raise BadInput("the input depends on a date", where="spec.input", remedy="give one with --as-of YYYY-MM-DD")

    def put(value: object) -> object:
        if isinstance(value, str):
            return value.replace("{as_of}", as_of.isoformat())
        return tuple(put(part) for part in value) if isinstance(value, tuple | list) else value

    return spec.model_copy(update={"path": put(spec.path), "filter": put(spec.filter)})


def filter_of(spec: Input) -> ds.Expression | None:
    """The row filter as an expression; None where there is none. Raises BadInput where it is malformed."""
    if not spec.filter:
        return None
    clauses = [[tuple(term) for term in clause] if _is_clause(clause) else tuple(clause) for clause in spec.filter]
    try:
        return pq.filters_to_expression(clauses)
    except (ValueError, TypeError, IndexError) as error:
        raise BadInput(
            f"not a filter: {error}",
            where="spec.input.filter",
            remedy='write it like [[amount, ">", 10], [country, "in", [de, fr]]]',
        ) from error


def _is_clause(clause: object) -> bool:
    return isinstance(clause, list | tuple) and bool(clause) and isinstance(clause[0], list | tuple)


def discover(spec: Input, *, skip: frozenset[tuple[str, int]] = frozenset()) -> Dataset:
    """Lists the files and reads every footer. `skip` holds (path, size) of files to leave out.

    Blocks. Raises BadInput where nothing is found, a footer is damaged (as declared), or two files hold a column in two types.
    """
    places = [locate(path) for path in spec.paths]
    if len({place.filesystem.type_name for place in places}) > 1:
        raise BadInput("the paths lie on different filesystems", where="spec.input.path", remedy="make one batch of each")
    infos = {info.path: info for place in places for info in _list(place)}
    fresh = [info for path, info in sorted(infos.items()) if (path, info.size) not in skip]
    if not infos:
        raise BadInput("no Parquet files there", where=", ".join(spec.paths), remedy="check spec.input.path")
    base = _base_of(places)
    return _read(base, fresh, spec) if fresh else Dataset(base, pa.schema([]), (), ())


def covers(spec: Input, place: Place) -> bool:
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


def _list(place: Place) -> list[pafs.FileInfo]:
    with explaining(place.path):
        if _GLOB.search(place.path):
            below = Place(place.filesystem, _fixed_part(place.path)).files()
            return [info for info in below if _match(place.path, info.path) and _visible(info.path, _fixed_part(place.path))]
        info = place.info()
        if info.type == pafs.FileType.NotFound:
            raise BadInput("no such file or directory", where=place.path, remedy="check spec.input.path")
        if info.type == pafs.FileType.File:
            return [info]
        return [found for found in place.files() if _visible(found.path, place.path)]


def _visible(path: str, base: str) -> bool:
    """Names that begin with a dot or an underscore are not data, as for every other reader of Parquet directories."""
    parts = path[len(base) :].strip("/").split("/")
    return not any(part.startswith((".", "_")) for part in parts) and not parts[-1].endswith(
        (".crc", ".json", ".yaml", ".txt", ".md")
    )


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


def _base_of(places: Sequence[Place]) -> Place:
    fixed = [_fixed_part(place.path) for place in places]
    return Place(places[0].filesystem, fixed[0])


def _read(base: Place, infos: Sequence[pafs.FileInfo], spec: Input) -> Dataset:
    expression = filter_of(spec)
    partitions = {info.path: _hive_keys(info.path[len(base.path) :]) for info in infos}
    fields = _partition_fields(list(partitions.values()))
    with ThreadPoolExecutor(_READERS) as pool:
        read = list(pool.map(lambda info: _footer(base.filesystem, info, expression, partitions[info.path], fields), infos))
    damaged = tuple(one for one in read if isinstance(one, Damaged))
    whole = [one for one in read if not isinstance(one, Damaged)]
    if damaged and (spec.on_damage is OnDamage.FAIL or not whole):
        raise BadInput(
            f"can't be read: {damaged[0].reason}" + (f" (and {len(damaged) - 1} more files)" if len(damaged) > 1 else ""),
            where=damaged[0].path,
            remedy="mend or remove the file, or say spec.input.on_damage: quarantine",
        )
    schema = whole[0][1]
    _check_drift(whole)
    known = set(schema.names)
    full = pa.schema([*schema, *(field for field in fields if field.name not in known)])
    files = tuple(file for file, _ in whole if file.row_groups)
    return Dataset(base, full, files, damaged)


def _footer(
    filesystem: pafs.FileSystem,
    info: pafs.FileInfo,
    expression: ds.Expression | None,
    partition: tuple[tuple[str, str], ...],
    fields: Sequence[pa.Field],
) -> tuple[InputFile, pa.Schema] | Damaged:
    file = InputFile(info.path, int(info.size), int(info.mtime_ns or 0), (), partition)
    try:
        fragment = fragment_of(filesystem, file.path, None, partition, fields)
        schema = fragment.physical_schema
        if expression is not None:
            whole = pa.schema([*schema, *(field for field in fields if field.name not in set(schema.names))])
            fragment = fragment.subset(filter=expression, schema=whole)
        groups = tuple(RowGroup(g.id, g.num_rows, g.total_byte_size) for g in fragment.row_groups if g.num_rows)
    except pa.ArrowInvalid as error:
        if "FieldRef" in str(error):
            raise BadInput(str(error), where="spec.input.filter", remedy=f"the columns are {', '.join(schema.names)}") from error
        return Damaged(info.path, int(info.size), str(error).splitlines()[0])
    except (OSError, pa.ArrowException) as error:
        return Damaged(info.path, int(info.size), str(error).splitlines()[0])
    return replace(file, row_groups=groups), schema


def fragment_of(
    filesystem: pafs.FileSystem,
    path: str,
    row_groups: Sequence[int] | None,
    partition: Sequence[tuple[str, str]],
    fields: Sequence[pa.Field],
) -> ds.ParquetFileFragment:
    """The part of a file that these row groups are (None: all), with its hive keys as columns."""
    types = {field.name: field.type for field in fields}
    expression = None
    for name, value in partition:
        term = ds.field(name) == pa.scalar(value).cast(types[name])
        expression = term if expression is None else expression & term
    return ds.ParquetFileFormat().make_fragment(
        path, filesystem, partition_expression=expression, row_groups=None if row_groups is None else list(row_groups)
    )


def _hive_keys(below: str) -> tuple[tuple[str, str], ...]:
    parts = [part.partition("=") for part in below.split("/")[:-1]]
    return tuple((name, value) for name, equals, value in parts if equals and name)


def _partition_fields(partitions: Sequence[tuple[tuple[str, str], ...]]) -> list[pa.Field]:
    """int64 where every value of a key is a whole number, else text."""
    values: dict[str, set[str]] = {}
    for partition in partitions:
        for name, value in partition:
            values.setdefault(name, set()).add(value)
    return [
        pa.field(name, pa.int64() if all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", value) for value in seen) else pa.string())
        for name, seen in values.items()
    ]


def _check_drift(files: Sequence[tuple[InputFile, pa.Schema]]) -> None:
    """Every column has one type in the files that have it; the first file has every column that is used."""
    first_file, first = files[0]
    for file, schema in files[1:]:
        if schema.equals(first):
            continue
        for field in first:
            place = schema.get_field_index(field.name)
            if place < 0:
                raise BadInput(
                    f"has no column {field.name}, which {first_file.path} has",
                    where=file.path,
                    remedy="make the files alike, or take those apart with a glob in spec.input.path",
                )
            if schema.field(place).type != field.type:
                raise BadInput(
                    f"column {field.name} is {schema.field(place).type} here and {field.type} in {first_file.path}",
                    where=file.path,
                    remedy="make the files alike, or take those apart with a glob in spec.input.path",
                )
