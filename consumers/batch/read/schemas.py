"""One type for a column that files by different writers hold in several."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from enum import StrEnum

import pyarrow as pa

from cluster.errors import BadInput


class TimeUnit(StrEnum):
    """The unit that times in 96 bits are read in."""

    MICROSECONDS = "us"
    NANOSECONDS = "ns"


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both; None where there is none.

    What is all null fits everything. Texts are texts however they are stored, whole numbers of two sizes become the larger, and
    with floats doubles: `cast` refuses the values that would change.
    """
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if (_holds(one, pa.types.is_null) and _holds(other, pa.types.is_map)) or (
        _holds(one, pa.types.is_map) and _holds(other, pa.types.is_null)
    ):
        return None  # Arrow makes empty maps of nulls
    one, other = _plain(one), _plain(other)
    if one == other:
        return one
    if _is_list(one) and _is_list(other):
        inner = common_type(one.value_type, other.value_type)
        large = pa.types.is_large_list(one) or pa.types.is_large_list(other)
        return None if inner is None else (pa.large_list(inner) if large else pa.list_(inner))
    if {bool(pa.types.is_decimal(one)), bool(pa.types.is_decimal(other))} == {True, False}:
        return None  # few decimals are doubles, and few whole numbers fit a decimal's digits
    if _is_text(one) is not _is_text(other):
        return None
    try:
        both = pa.unify_schemas([pa.schema({"x": one}), pa.schema({"x": other})], promote_options="permissive")
        found = both.field("x").type
        for kind in (one, other):
            pa.nulls(0, kind).cast(found)
    except pa.ArrowException:
        return None
    return found


def _plain(kind: pa.DataType) -> pa.DataType:
    return _plain(kind.value_type) if pa.types.is_dictionary(kind) else without_views(kind)


def without_views(kind: pa.DataType) -> pa.DataType:
    """The type with plain texts and binaries for views, from which Arrow can't choose rows."""
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(without_views(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(without_views(kind.key_type), kind.item_field.with_type(without_views(kind.item_type)))
    if not _is_list(kind):
        return kind
    inner = kind.value_field.with_type(without_views(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner, kind.list_size)
    return pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _holds(kind: pa.DataType, wanted: Callable[[pa.DataType], bool]) -> bool:
    return wanted(kind) or any(_holds(kind.field(at).type, wanted) for at in range(kind.num_fields))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def cast(column: pa.Array, kind: pa.DataType, *, name: str, where: str) -> pa.Array:
    """The same values in this type. Raises BadInput where one of them would change."""
    try:
        return _cast(column, kind)
    except pa.ArrowException as error:
        raise BadInput(
            f"column {name} ({column.type}) holds a value that {kind}, its type in all files together, can't hold",
            where=where,
            remedy="write it in one type in all files, or take those apart with a glob in spec.input.path",
        ) from error


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    return pa.nulls(len(column), kind) if pa.types.is_null(column.type) else column.cast(kind)


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """The tables one below the other, with all their columns. A column whose types don't go together becomes text."""
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    kinds = {name: [table.schema.field(name).type for table in tables if name in table.column_names] for name in names}
    common = {name: _common(found) for name, found in kinds.items()}
    try:
        return _concatenated(tables, names, common)
    except pa.ArrowException:  # a value that the common type can't hold: text for all that differ
        differ = {name: None if len(set(found)) > 1 else found[0] for name, found in kinds.items()}
        return _concatenated(tables, names, differ)


def _common(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    return functools.reduce(lambda one, other: None if one is None else common_type(one, other), kinds)


def _concatenated(tables: Sequence[pa.Table], names: Sequence[str], kinds: dict[str, pa.DataType | None]) -> pa.Table:
    columns = {}
    for name in names:
        kind = kinds[name]
        chunks = []
        for table in tables:
            if name not in table.column_names:
                chunks.append(pa.nulls(table.num_rows, pa.string() if kind is None else kind))
            else:
                column = table[name].combine_chunks()
                chunks.append(_as_text(column) if kind is None else _cast(column, kind))
        columns[name] = pa.concat_arrays(chunks)
    return pa.table(columns)


def _as_text(column: pa.Array) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())


def once(names: Sequence[str]) -> list[str]:
    """The names with those that come again numbered: no two are alike."""
    taken: set[str] = set()
    known = set(names)
    found: list[str] = []
    for name in names:
        fresh, number = name, 2
        while fresh in taken or (fresh != name and fresh in known):
            fresh, number = f"{name}_{number}", number + 1
        taken.add(fresh)
        found.append(fresh)
    return found
