"""The row filter, whose values are those of its columns' types."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from datetime import date, time
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from cluster.errors import BadInput
from consumers.batch.spec import BatchInput

_COMPARE: dict[str, Callable[[ds.Expression, Any], ds.Expression]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "in": lambda column, values: column.isin(values),
    "not in": lambda column, values: ~column.isin(values),
}
_WHERE = "spec.input.filter"


def filter_columns(spec: BatchInput) -> tuple[str, ...]:
    """The columns that the filter looks at. Raises BadInput where it is malformed."""
    return tuple(dict.fromkeys(name for clause in _clauses(spec) for name, _, _ in clause))


def filter_of(spec: BatchInput, schema: pa.Schema) -> ds.Expression | None:
    """The row filter as an expression over `schema`; None where there is none.

    Dates and times are written as texts, since documents may have no others. Raises BadInput where it is malformed, a column is
    not there, or a value is not of its column's type.
    """
    found = [functools.reduce(operator.and_, (_term(schema, *term) for term in clause)) for clause in _clauses(spec)]
    if not found:
        return None
    expression = functools.reduce(operator.or_, found)
    try:
        pa.table({name: pa.nulls(0, schema.field(name).type) for name in filter_columns(spec)}).filter(expression)
    except pa.ArrowException as error:
        raise _malformed(error) from error
    return expression


def _clauses(spec: BatchInput) -> list[list[tuple[str, str, Any]]]:
    """In disjunctive normal form: any of the clauses, in each all of the terms."""
    found: list[Any] = list(spec.filter)
    if found and not _holds_terms(found[0]):
        found = [found]
    clauses: list[list[tuple[str, str, Any]]] = []
    for clause in found:
        terms = list(clause) if isinstance(clause, list | tuple) else [clause]
        for term in terms:
            if not (isinstance(term, list | tuple) and len(term) == 3 and isinstance(term[0], str) and isinstance(term[1], str)):
                raise _malformed(f"{term!r} is not [COLUMN, OPERATOR, VALUE]")
            if term[1] in ("in", "not in") and not isinstance(term[2], list | tuple):
                raise _malformed(f"{term[0]} {term[1]} needs a list of values")
        clauses.append([tuple(term) for term in terms])
    return clauses


def _holds_terms(clause: object) -> bool:
    return isinstance(clause, list | tuple) and bool(clause) and isinstance(clause[0], list | tuple)


def _malformed(why: object) -> BadInput:
    return BadInput(f"not a filter: {why}", where=_WHERE, remedy='write it like [[amount, ">", 10], [country, "in", [de, fr]]]')


def _term(schema: pa.Schema, name: str, compare: str, value: Any) -> ds.Expression:
    count = schema.names.count(name)
    if count != 1:
        raise BadInput(
            f"there are {count} columns {name}" if count else f"there is no column {name}",
            where=_WHERE,
            remedy="rename them in the files" if count else f"the columns are {', '.join(schema.names)}",
        )
    kind = schema.field(name).type
    if compare not in _COMPARE:
        raise _malformed(f"{compare!r} is none of {', '.join(_COMPARE)}")
    if pa.types.is_null(kind):  # in none of the files is there a value: nothing is like it
        return ds.field(name).is_valid()
    return _COMPARE[compare](ds.field(name), _typed(name, kind, value))


def _typed(name: str, kind: pa.DataType, value: Any) -> Any:
    """As scalars of the column's type where what is written must be read, else as it is."""
    several = isinstance(value, list | tuple)
    values = tuple(value) if several else (value,)
    wanted = tuple(_wanted(kind))
    for each in values:
        if each is not None and not any(fits(each) for fits in wanted):
            raise _wrong(name, kind, each)
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        column = pa.concat_arrays([_read(name, kind, each) for each in values]) if values else pa.nulls(0, kind)
        return column if several else column[0]
    return list(values) if several else value


def _read(name: str, kind: pa.DataType, value: Any) -> pa.Array:
    plain = str(value) if isinstance(value, int | float) else value
    try:
        if pa.types.is_time(kind) and isinstance(plain, str):
            plain = time.fromisoformat(plain)
        return pa.array([plain]).cast(kind)
    except (pa.ArrowException, ValueError) as error:
        raise _wrong(name, kind, value) from error


def _wanted(kind: pa.DataType) -> Iterator[Callable[[Any], bool]]:
    """What may be compared with values of this type."""
    if pa.types.is_dictionary(kind):
        yield from _wanted(kind.value_type)
    elif pa.types.is_boolean(kind):
        yield lambda value: isinstance(value, bool)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        yield _is_number
    elif pa.types.is_decimal(kind):
        yield lambda value: _is_number(value) or isinstance(value, str)
    elif pa.types.is_temporal(kind):
        yield lambda value: isinstance(value, str | date)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        yield lambda value: isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(name: str, kind: pa.DataType, value: Any) -> BadInput:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        remedy = "put the value in quotes (YAML reads 01, NO and dates without them as something else)"
    elif pa.types.is_temporal(kind):
        remedy = 'write it as a text, e.g. "2026-11-23" or "2026-11-23T00:00:00Z" (with an offset where the column has a zone)'
    else:
        remedy = "write a value of the column's type, or filter by another column"
    return BadInput(f"column {name} is {kind}, and {value!r} is no value of that type", where=_WHERE, remedy=remedy)
