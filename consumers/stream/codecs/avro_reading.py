"""How the values of one registered Avro schema are read: as numbers and texts, and never so that they end the process.

A feature is the number that was written: milliseconds, microseconds or days since 1970, the text of a UUID. The parser would make
dates of those, which models can't take, and which Python has only up to the year 9999; so it is not told what they mean. Nothing
is then left to refuse in a date of the year 20000: its number is as good as any. Decimals alone need their schema to be numbers.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from functools import partial
from typing import Any

import fastavro
from fastavro import _read_py
from fastavro.read import LOGICAL_READERS
from fastavro.schema import SchemaParseException

from cluster.errors import BadInput
from cluster.foreign import first_line
from consumers.stream.codecs.fields import REFUSED, Misfit
from consumers.stream.codecs.registry import RegisteredSchema

Read = Callable[[io.BytesIO], Any]

# The compiled reader does not look how deep it is: a few thousand levels, a byte each, overflow the stack and end the process.
MOST_DEPTH = 100
MOST_DECIMAL_BYTES = 1024
_DECIMAL = "headrace-decimal"
_EXACT = Context(prec=3 * MOST_DECIMAL_BYTES, Emin=MIN_EMIN, Emax=MAX_EMAX)
PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_HINTS = ("__fastavro_parsed", "__named_schemas")  # by which the parser knows what it parsed: it takes them at their word


@dataclass(frozen=True, slots=True)
class _Extent:
    """How deep values of a schema nest at most, without end where it names itself, and how many bytes one takes at least."""

    depth: float
    size: int


def reader_of(schema_id: int | str, found: RegisteredSchema) -> Read:
    """What reads one value from where its bytes begin. Raises BadInput where the schema can't be used."""
    if found.kind != "AVRO":
        raise BadInput(f"schema {schema_id} is of type {found.kind}", where="value", remedy="send Avro, or change input.format")
    named: dict[str, Any] = {}
    try:
        for text in found.references.values():
            fastavro.parse_schema(_loads(text), named_schemas=named)
        schema = _loads(found.text)
        # Only records keep the types that they name. One around the schema adds no byte to what was written with it.
        bare = not isinstance(schema, dict) or schema.get("type") != "record"
        if bare:
            schema = {"type": "record", "name": "HeadraceValue", "fields": [{"name": "value", "type": schema}]}
        parsed = fastavro.parse_schema(schema, named_schemas=named)
        depth = _extent(parsed, named, {}).depth
    except (SchemaParseException, *REFUSED) as error:
        raise BadInput(f"schema {schema_id} can't be parsed: {_of_schema(error)}", where="value", remedy="correct it") from error
    # The uncompiled reader is many times slower; the interpreter bounds how deep it goes.
    reader = fastavro.schemaless_reader if depth <= MOST_DEPTH else _read_py.schemaless_reader
    read: Read = partial(reader, writer_schema=parsed, reader_schema=None)
    return partial(_inside, read) if bare else read


def _of_schema(error: Exception) -> str:
    """A schema holds no rows: what the parser quotes is its own."""
    return first_line(error)[:300]


def _inside(read: Read, source: io.BytesIO) -> Any:
    return read(source)["value"]


def _loads(text: str) -> Any:
    schema = json.loads(text)
    _strip([schema])
    return schema


def _strip(nodes: Iterable[Any]) -> None:
    """Takes out of a schema what would change the values: every logical type. A sound decimal gets a name of our own."""
    for node in nodes:
        if isinstance(node, list):
            _strip(node)
        elif isinstance(node, dict):
            for name in _HINTS:
                node.pop(name, None)
            logical = node.pop("logicalType", None)
            if logical == "decimal" and _is_sound(node):  # else it is none, as Avro has it
                node["logicalType"] = _DECIMAL
            _strip(node.values())


def _is_sound(node: Mapping[str, Any]) -> bool:
    precision, scale, size = node.get("precision"), node.get("scale", 0), node.get("size")
    if type(precision) is not int or type(scale) is not int or not 0 <= scale <= precision:
        return False
    fits = type(size) is int and precision <= math.floor(math.log10(2) * (8 * size - 1))
    return precision > 0 and (node.get("type") == "bytes" or (node.get("type") == "fixed" and fits))


def _decimal(data: bytes, schema: dict[Any, Any] | None, _: dict[Any, Any] | None = None) -> Decimal:
    """The number as written. The parser's own way rounds it to the precision without a word."""
    if len(data) > MOST_DECIMAL_BYTES:  # to make a decimal of many takes time by their square
        raise Misfit(f"a decimal of {len(data)} bytes, at most {MOST_DECIMAL_BYTES} are read")
    scale = schema.get("scale", 0) if schema else 0
    return Decimal(int.from_bytes(data, "big", signed=True)).scaleb(-scale, _EXACT)


LOGICAL_READERS.update({f"bytes-{_DECIMAL}": _decimal, f"fixed-{_DECIMAL}": _decimal})


def _extent(schema: Any, named: Mapping[str, Any], known: dict[int, _Extent]) -> _Extent:
    """Of a parsed schema; `known` are those of records, by identity. Raises ValueError for lists that grow by no bytes."""
    if isinstance(schema, list):
        return _Extent(1 + _deepest(found := [_extent(each, named, known) for each in schema]), 1 if found else 0)
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind in ("array", "map"):
        inner = _extent(schema["items" if kind == "array" else "values"], named, known)
        if kind == "array" and not inner.size:
            raise ValueError("a list of what takes no bytes")
        return _Extent(1 + inner.depth, 1)
    if kind in ("record", "error"):
        if id(schema) not in known:
            known[id(schema)] = _Extent(math.inf, 1)  # met again inside itself: what ends it, a choice or a list, takes a byte
            fields = [_extent(field["type"], named, known) for field in schema["fields"]]
            known[id(schema)] = _Extent(1 + _deepest(fields), sum(each.size for each in fields))
        return known[id(schema)]
    if kind == "fixed":
        return _Extent(1, schema["size"])
    if kind == "enum" or kind in PRIMITIVES:
        return _Extent(1, 0 if kind == "null" else 1)
    return _extent(named[kind], named, known)


def _deepest(extents: Sequence[_Extent]) -> float:
    return max((each.depth for each in extents), default=0)
