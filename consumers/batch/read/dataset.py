"""Reads the footers of the input's files: their row groups, and the one type of each column."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from functools import partial, reduce

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import xxhash

from cluster.errors import BadInput
from cluster.foreign import first_line
from cluster.signature import Signature
from consumers.batch.plan import Damaged, InputFile, RowGroup
from consumers.batch.read.columns import expanded, used_columns
from consumers.batch.read.filters import filter_columns, filter_of
from consumers.batch.read.hive import Keys, fields_of, folder_of, keys_of
from consumers.batch.read.listing import list_data
from consumers.batch.read.reader import holds_times, int96_types
from consumers.batch.read.schemas import TimeUnit, common_type, without_views
from consumers.batch.spec import BatchInput, OnDamage
from deployments.artifacts.places import Place
from deployments.privacy.parquet import decryption, opening

_READERS = 16  # footers are small reads: waiting, not computing


@dataclass(frozen=True, slots=True)
class Mark:
    """By what a file is known again: its size, when it was last modified, and its footer's digest (empty where not taken)."""

    size_bytes: int
    modified_ns: int
    footer: str = ""

    def is_like(self, other: Mark) -> bool:
        """Whether nothing tells the two apart."""
        same = (self.size_bytes, self.modified_ns) == (other.size_bytes, other.modified_ns)
        return same and (not self.footer or not other.footer or self.footer == other.footer)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The files with at least one row group that the filter may match, in order of their paths.

    `schema` are the first file's columns with the hive keys, each that is used in the type that holds all files' values. `spec`
    names each column that its patterns stand for. `int96_unit` is the unit of times that are stored in 96 bits, and `others` are
    the files that are no data.
    """

    place: Place
    spec: BatchInput
    schema: pa.Schema
    files: tuple[InputFile, ...]
    damaged: tuple[Damaged, ...]
    int96_unit: TimeUnit
    others: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows in the row groups that are read, before the filter."""
        return sum(file.rows for file in self.files)


def with_date(spec: BatchInput, as_of: date | None) -> BatchInput:
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


def discover(spec: BatchInput, signature: Signature, *, known: Mapping[str, Sequence[Mark]] | None = None) -> Dataset:
    """Lists the files and reads every footer. The columns that are used must go together; `known` files are left out.

    Blocks. Raises BadInput where nothing is found, a footer is damaged (as declared), two files hold a used column in types that
    don't go together, or the filter is not one over these columns.
    """
    base, listing = list_data(spec)
    paths = sorted(listing.data)
    keys = {path: keys_of(folder_of(path, listing.data[path][1])) for path in paths}
    fields = fields_of(keys.values())
    footer = partial(_footer, base.filesystem, spec, fields, with_digest=spec.only_new)
    with ThreadPoolExecutor(_READERS) as pool:
        read = list(pool.map(lambda path: footer(listing.data[path][0], keys[path]), paths))
    damaged = tuple(one for one in read if isinstance(one, Damaged))
    readable = [one for one in read if not isinstance(one, Damaged)]
    whole = [one for one in readable if not _is_known(one[0], known or {})]
    if damaged and (spec.on_damage is OnDamage.FAIL or not readable):
        left_out = "" if spec.on_damage is OnDamage.QUARANTINE else ", or say spec.input.on_damage: quarantine"
        raise BadInput(
            f"can't be read: {damaged[0].reason}" + (f" (and {len(damaged) - 1} more files)" if len(damaged) > 1 else ""),
            where=damaged[0].path,
            remedy=f"mend or remove the file{left_out}",
        )
    if not whole:
        return Dataset(base, spec, pa.schema([]), (), damaged, TimeUnit.MICROSECONDS, listing.others)
    spec = expanded(spec, _with_keys(whole[0][1], fields).names)
    columns = frozenset({*used_columns(signature, spec), *filter_columns(spec)})
    unit, times = _int96_types(base.filesystem, whole, columns)
    schema = _one_schema(whole, fields, columns, times)
    filter_of(spec, schema)
    files = tuple(file for file, _ in whole if file.row_groups)
    return Dataset(base, spec, schema, files, damaged, unit, listing.others)


def _is_known(file: InputFile, known: Mapping[str, Sequence[Mark]]) -> bool:
    mark = Mark(file.size_bytes, file.modified_ns, file.footer)
    return any(mark.is_like(earlier) for earlier in known.get(file.path, ()))


def _footer(
    filesystem: pafs.FileSystem,
    spec: BatchInput,
    fields: Sequence[pa.Field],
    info: pafs.FileInfo,
    keys: Keys,
    *,
    with_digest: bool,
) -> tuple[InputFile, pa.Schema] | Damaged:
    file = InputFile(info.path, int(info.size), int(info.mtime_ns or 0), (), keys)
    try:
        fragment = _fragment(filesystem, file.path, keys, fields)
        with opening(file.path):
            schema = fragment.physical_schema
        if with_digest:
            file = replace(file, footer=_digest(fragment.metadata))
        if spec.filter:
            fragment = _pruned(fragment, spec, _with_keys(schema, fields))
        groups = tuple(RowGroup(g.id, g.num_rows, g.total_byte_size) for g in fragment.row_groups if g.num_rows)
    except (OSError, pa.ArrowException) as error:
        return Damaged(info.path, int(info.size), first_line(error))
    return replace(file, row_groups=groups), schema


def _fragment(filesystem: pafs.FileSystem, path: str, keys: Keys, fields: Sequence[pa.Field]) -> ds.ParquetFileFragment:
    types = {field.name: field.type for field in fields}
    terms = [
        ds.field(name).is_null() if value is None else ds.field(name) == pa.scalar(value).cast(types[name])
        for name, value in keys
    ]
    form = ds.ParquetFileFormat(
        read_options=ds.ParquetReadOptions(coerce_int96_timestamp_unit=TimeUnit.MICROSECONDS),
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(decryption_properties=decryption()),
    )
    return form.make_fragment(path, filesystem, partition_expression=reduce(operator.and_, terms) if terms else None)


def _pruned(fragment: ds.ParquetFileFragment, spec: BatchInput, schema: pa.Schema) -> ds.ParquetFileFragment:
    """Without the row groups in which the filter matches nothing, as far as this file's types let that be known."""
    try:
        return fragment.subset(filter=filter_of(spec, schema), schema=schema)
    except (BadInput, pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return fragment  # another file's type may be the one that decides; rows are chosen as they are read


def _digest(metadata: pq.FileMetaData) -> str:
    sink = pa.BufferOutputStream()
    metadata.write_metadata_file(sink)
    return xxhash.xxh3_64_hexdigest(memoryview(sink.getvalue()))


def _with_keys(schema: pa.Schema, fields: Iterable[pa.Field]) -> pa.Schema:
    """The folders decide, as for every other reader, where a file has a column of a key's name."""
    fields = list(fields)
    keys = {field.name for field in fields}
    return pa.schema([*(field for field in schema if field.name not in keys), *fields])


def _int96_types(
    filesystem: pafs.FileSystem, files: Sequence[tuple[InputFile, pa.Schema]], used: Collection[str]
) -> tuple[TimeUnit, dict[str, pa.DataType]]:
    """The unit of times in 96 bits, and the types of such columns: as the first file that has times tells.

    Microseconds, which hold every date, as Spark writes them; nanoseconds where there are finer times.
    """
    for file, schema in files:
        if any(holds_times(field.type) for field in schema if field.name in used):
            with filesystem.open_input_file(file.path) as source:
                return int96_types(source, file.path, used, first_group=next((group.index for group in file.row_groups), None))
    return TimeUnit.MICROSECONDS, {}


def _one_schema(
    files: Sequence[tuple[InputFile, pa.Schema]],
    fields: Sequence[pa.Field],
    used: frozenset[str],
    types: Mapping[str, pa.DataType],
) -> pa.Schema:
    """Every used column in one type, `types` being known. The first file decides what else there is: nobody looks at it."""
    first_file, first = files[0]
    found = dict(types)
    wanted = (used & set(first.names)) - {field.name for field in fields}  # what is missing is told with what needs it
    last: pa.Schema | None = None
    for file, schema in files:
        if last is not None and schema.equals(last):
            continue
        last = schema
        counts = Counter(schema.names)
        for name in sorted(wanted):
            if counts[name] != 1:
                missing = f"has no column {name}, which {first_file.path} has"
                raise _unlike(f"has {counts[name]} columns {name}" if counts[name] else missing, file.path)
            kind = without_views(schema.field(name).type)
            common = common_type(found.get(name, pa.null()), kind)
            if common is None:
                raise _unlike(f"column {name} is {kind} here and {found[name]} in {first_file.path}", file.path)
            found[name] = common
    columns = [field.with_type(found.get(field.name, field.type)).with_nullable(True) for field in first]
    return _with_keys(pa.schema(columns), fields)


def _unlike(told: str, path: str) -> BadInput:
    return BadInput(told, where=path, remedy="make the files alike, or take those apart with a glob in spec.input.path")
