"""What a column's values are stored as, where inputs take no such values: dates are numbers, dictionaries are spread out."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from cluster.signature import Datatype
from deployments.engines.datatypes import NUMPY

_EXACT_DIGITS = 15  # of a decimal, in a double


def types_between(kind: pa.DataType, datatype: Datatype) -> tuple[pa.DataType, ...]:
    """Those that a column's values go through to be an input's; none where they are fit as they are.

    Dates and times are the numbers that they are stored as, in their own unit, as with Avro. What a dictionary holds may be null,
    which only shows when it is spread out.
    """
    if pa.types.is_dictionary(kind):
        return (kind.value_type, *types_between(kind.value_type, datatype))
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):  # of which Arrow can't choose rows
        return (pa.string() if pa.types.is_string_view(kind) else pa.binary(),)
    if pa.types.is_fixed_size_list(kind):
        return tuple(pa.list_(each, kind.list_size) for each in types_between(kind.value_type, datatype))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return tuple(make(each) for each in types_between(kind.value_type, datatype))
    wanted = NUMPY[datatype].kind
    if wanted not in "iuf":
        return ()
    if pa.types.is_decimal(kind):
        if wanted == "f":  # by way of its digits: the direct way misses the nearest number now and then
            return (pa.string(), pa.float64())
        wide = kind if kind.bit_width > 128 else pa.decimal128(kind.precision, kind.scale)  # narrow ones become no integers
        return (wide, pa.uint64() if datatype is Datatype.UINT64 else pa.int64())
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        return (pa.int32(),)
    return (pa.int64(),) if pa.types.is_temporal(kind) and not pa.types.is_interval(kind) else ()


def may_lose(kind: pa.DataType, datatype: Datatype) -> bool:
    """Whether a decimal, however deep in lists, may have digits that the input's numbers don't."""
    if (
        pa.types.is_dictionary(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
    ):
        return may_lose(kind.value_type, datatype)
    if not pa.types.is_decimal(kind):
        return False
    return bool(kind.scale > 0 if NUMPY[datatype].kind in "iu" else kind.precision > _EXACT_DIGITS)


def through(column: pa.Array, types: Sequence[pa.DataType]) -> pa.Array:
    """The column after these casts. Raises ArrowException where a value can't go through."""
    for each in types:
        column = column.cast(each)
    return column


def fit_rows(column: pa.Array, types: Sequence[pa.DataType]) -> tuple[pa.Array, list[int]]:
    """The column after these casts, and the rows that can't go through, which are null in it."""
    try:
        return through(column, types), []
    except pa.ArrowException:
        unfit = [row for row in range(len(column)) if not _goes_through(column.slice(row, 1), types)]
        gone = set(unfit)
        kept = column.take(pa.array([None if row in gone else row for row in range(len(column))], pa.int64()))
        return through(kept, types), unfit


def _goes_through(value: pa.Array, types: Sequence[pa.DataType]) -> bool:
    try:
        through(value, types)
    except pa.ArrowException:
        return False
    return True
