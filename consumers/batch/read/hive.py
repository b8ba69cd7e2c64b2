"""Hive folders, `KEY=VALUE/`: what they say of input files, and how output rows are sorted into them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import BadInput

NULL = "__HIVE_DEFAULT_PARTITION__"
MOST_PARTITIONS = 1000
_ESCAPED = re.compile(r"""[\x00-\x1f\x7f"#%'*/:=?\\{}\[\]^]""")
_LONGEST_NAME_BYTES = 255  # of every common file system
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9]\d{0,17})")

Keys = tuple[tuple[str, str | None], ...]


def keys_of(folders: str) -> Keys:
    """The keys that a path's folders hold, decoded once as every reader does; None is null."""
    parts = [part.partition("=") for part in folders.split("/")]
    return tuple((unquote(name), None if value == NULL else unquote(value)) for name, equals, value in parts if equals and name)


def fields_of(partitions: Iterable[Keys]) -> tuple[pa.Field, ...]:
    """int64 where every value of a key is a whole number, else text; nulls decide nothing."""
    values: dict[str, set[str]] = {}
    for partition in partitions:
        for name, value in partition:
            seen = values.setdefault(name, set())
            if value is not None:
                seen.add(value)
    return tuple(
        pa.field(name, pa.int64() if seen and all(_WHOLE_NUMBER.fullmatch(value) for value in seen) else pa.string())
        for name, seen in values.items()
    )


def check_keys(schema: pa.Schema, columns: Sequence[str]) -> None:
    """Raises BadInput where one of the columns holds what can't be the name of a folder."""
    for name in columns:
        kind = _inner(schema.field(name).type)
        texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        plain = pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
        if not (texts or plain) or pa.types.is_interval(kind):
            raise BadInput(
                f"column {name} is {schema.field(name).type}, which makes no name of a folder",
                where="spec.output.partition_by",
                remedy="partition by columns of texts, numbers, dates or times",
            )


def by_partition(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """The table cut by the values of these columns, which become the folder (`k=v/`) and leave the table.

    Every row is in exactly one part, and each folder is one part: rows are told apart by the folder's name alone, so that NaN, or
    two values that are written alike, need no rule. Raises BadInput where there are too many values for files of a sensible size,
    and where a text can't be the name of a folder.
    """
    if not columns:
        yield "", table
        return
    if not table.num_rows:
        return
    folders, places = [""], np.zeros(table.num_rows, dtype=np.int64)
    for name in columns:
        segments, at = _segments(name, table[name])
        found, places = np.unique(places * len(segments) + at, return_inverse=True)
        if len(found) > MOST_PARTITIONS:
            raise _too_many(columns, len(found))
        folders = [f"{folders[each // len(segments)]}{segments[each % len(segments)]}/" for each in found.tolist()]
    rest = table.drop_columns(list(columns))
    order = np.argsort(places, kind="stable")
    ends = np.cumsum(np.bincount(places, minlength=len(folders)))
    for folder, rows in zip(folders, np.split(order, ends[:-1]), strict=True):
        yield folder, rest.take(pa.array(rows))


def _segments(name: str, column: pa.ChunkedArray) -> tuple[list[str], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The different folders that a column's values make, and each row's place among them."""
    kind = _inner(column.type)
    if pa.types.is_null(kind):
        return [_segment(name, None)], np.zeros(len(column), dtype=np.int64)
    if pa.types.is_string_view(kind):
        kind = pa.string()
    elif pa.types.is_float16(kind):
        kind = pa.float32()
    elif pa.types.is_decimal(kind) and kind.bit_width < 128:
        kind = pa.decimal128(kind.precision, kind.scale)
    encoded = pc.dictionary_encode(column.cast(kind).combine_chunks(), null_encoding="encode")
    if len(encoded.dictionary) > MOST_PARTITIONS:
        raise _too_many([name], len(encoded.dictionary))
    all_segments = [_segment(name, _text(name, value)) for value in encoded.dictionary]
    places = {segment: place for place, segment in enumerate(dict.fromkeys(all_segments))}
    of_value = np.array([places[segment] for segment in all_segments], dtype=np.int64)
    return list(places), of_value[encoded.indices.to_numpy(zero_copy_only=False)]


def _inner(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _text(name: str, value: pa.Scalar) -> str | None:
    if not value.is_valid:
        return None
    try:
        plain = value.as_py()
    except (ValueError, OverflowError) as error:
        raise BadInput(
            f"column {name} ({value.type}) holds a time outside of the years 1 to 9999",
            where="output.partition_by",
            remedy="leave such rows out with spec.input.filter, or partition by another column",
        ) from error
    return f"{plain:f}" if isinstance(plain, Decimal) else str(plain)


def _segment(name: str, value: str | None) -> str:
    if value == NULL:
        raise BadInput(
            f"column {name} holds the text {NULL}, which every reader of such folders takes for null",
            where="output.partition_by",
            remedy="replace that text in the input, or partition by another column",
        )
    segment = f"{_escaped(name)}={NULL if value is None else _escaped(value)}"
    if (size_bytes := len(segment.encode())) > _LONGEST_NAME_BYTES:
        raise BadInput(
            f"column {name} holds a text too long for a folder's name: {size_bytes} of {_LONGEST_NAME_BYTES} bytes",
            where="output.partition_by",
            remedy="partition by a column of short texts, or leave such rows out with spec.input.filter",
        )
    return segment


def _escaped(text: str) -> str:
    """As Hive and Spark write it: Spark takes an escape for one letter, so that what is beyond ASCII stands as it is."""
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _too_many(columns: Sequence[str], found: int) -> BadInput:
    return BadInput(
        f"{', '.join(columns)} have {found:,} different values in one unit",
        where="output.partition_by",
        remedy=f"partition by columns with fewer values than {MOST_PARTITIONS:,}",
    )


def folder_of(path: str, root: str) -> str:
    """The folders between a dataset's root and one of its files."""
    return os.path.dirname(path[len(root) :])
