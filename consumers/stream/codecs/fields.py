"""One input of the model as producers send it: where it lies in a document, and how it becomes a row of the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import NoneType
from typing import Any

import numpy as np

from cluster.errors import BadInput
from cluster.foreign import words_of
from cluster.signature import Datatype, TensorSpec
from deployments.engines.datatypes import NUMPY, Array
from deployments.scoring.nonfinite import REMEDY, WORDS, has_infinity, overflown

_FLOATS = {Datatype.FP16, Datatype.FP32, Datatype.FP64}
_SIGNED = {Datatype.INT8, Datatype.INT16, Datatype.INT32, Datatype.INT64}
_UNSIGNED = {Datatype.UINT8, Datatype.UINT16, Datatype.UINT32, Datatype.UINT64}
MOST_WHOLE_DIGITS = 20  # of 64 bits
# What numpy and the parsers raise for a value that does not fit; anything else is a fault of ours.
REFUSED = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError, IndexError)


class Misfit(ValueError):
    """A value that does not fit, in words of ours, which name types and places alone. One of REFUSED."""


class Field:
    """One input. `path` is a name at the document's top, or `/a/b`; `under` is the path of what it starts from."""

    def __init__(self, spec: TensorSpec, path: str, *, under: str = "") -> None:
        if spec.datatype is Datatype.BF16:
            raise BadInput(f"{spec.name} is BF16, which this format can't carry", where="input.format", remedy="use format raw")
        self.name = spec.name
        self.where = f"{under}{path if path.startswith('/') or not under else _escaped(path)}"
        self.steps = steps_of(self.where)
        self.dtype = NUMPY[spec.datatype]
        self.inner = tuple(spec.shape[1:])
        self.size = math.prod(self.inner)
        self.datatype = kind = spec.datatype
        self.kind = "d" if kind in _FLOATS else "i" if kind in _SIGNED else "u" if kind in _UNSIGNED else None
        self.wire = np.dtype({"d": "f8", "i": "i8", "u": "u8"}[self.kind]) if self.kind else None
        self.narrow = self.kind in ("i", "u") and self.wire != self.dtype

    def find(self, document: Any) -> Any:
        """The field's value in a document of mappings and lists. Raises one of REFUSED."""
        for step in self.steps:
            document = document[int(step)] if isinstance(document, list) else document[step]
        return document

    def fill(self, value: Any, row: Array) -> None:
        """Fills `row` (flat, `size` values) from a value of Python's own kinds, or raises one of REFUSED."""
        flat = _flatten(value, self.inner) if isinstance(value, list) else [value]
        if len(flat) != self.size:
            raise Misfit(f"the shape must be {list(self.inner)}, got {len(flat)} items")
        if self.datatype is Datatype.BYTES:
            row[:] = [_as_bytes(item) for item in flat]
            return
        wanted = {bool} if self.kind is None else {int, float} if self.kind == "d" else {int}
        kinds = set(map(type, flat))
        if self.kind == "d" and not kinds.isdisjoint({NoneType, str}):  # missing, or a text that stands for a number
            flat = [WORDS.get(item, item) if isinstance(item, NoneType | str) else item for item in flat]
            kinds = set(map(type, flat))
        if not kinds <= wanted:
            if Decimal not in kinds or not kinds - {Decimal} <= wanted or self.kind is None:
                got = ", ".join(sorted("null" if kind is NoneType else kind.__name__ for kind in kinds - wanted))
                raise Misfit(f"expected {self.datatype} values, got {got}")
            flat = [self._number(item) if isinstance(item, Decimal) else item for item in flat]
        if self.narrow:
            self.check_range(np.array(flat, dtype=self.wire))
        row[:] = flat

    def _number(self, item: Decimal) -> float | int:
        if self.kind == "d":
            return float(item)
        if not item.is_finite() or item.adjusted() > MOST_WHOLE_DIGITS or item != item.to_integral_value():
            raise Misfit("a decimal is no whole number, or too large")
        return int(item)

    def check_range(self, flat: Array) -> None:
        """Raises Misfit where the input's own datatype can't hold a number."""
        bounds = np.iinfo(self.dtype)  # type: ignore[type-var]  # only asked for integers
        if flat.size and (flat.min() < bounds.min or flat.max() > bounds.max):
            raise Misfit(f"a number lies outside {bounds.min}..{bounds.max}")

    def refusal(self, error: Exception) -> BadInput:
        """What one of REFUSED, met at this field, means to the sender."""
        if isinstance(error, KeyError | IndexError):
            return BadInput("missing", where=self.where, remedy=f"send it with {self.size} values")
        remedy = f"send {self.dtype} values of shape {list(self.inner)}"
        return BadInput(self._why(error), where=self.where, remedy=f"{remedy}; {REMEDY}" if self.kind == "d" else remedy)

    def _why(self, error: Exception) -> str:
        if isinstance(error, OverflowError):
            return f"a number is out of the range of {self.datatype}"
        return words_of(error)


def make_fields(inputs: Sequence[TensorSpec], names: Mapping[str, str]) -> list[Field]:
    """A field an input; `names` says where those lie that are called otherwise than the input."""
    return [Field(spec, names.get(spec.name, spec.name)) for spec in inputs]


def read_documents(
    fields: Sequence[Field], documents: Mapping[int, Any]
) -> tuple[dict[str, Array], list[int], dict[int, BadInput]]:
    """Documents of mappings and lists, by row, as tensors, with the rows that they hold and those that don't fit."""
    arrays = [np.empty((len(documents), field.size), field.wire if field.kind == "d" else field.dtype) for field in fields]
    rows: list[int] = []
    errors: dict[int, BadInput] = {}
    overflowed: dict[int, Field] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for row, document in documents.items():
            field = None
            try:
                for field, array in zip(fields, arrays, strict=True):
                    field.fill(field.find(document), array[len(rows)])
            except REFUSED as error:
                errors[row] = field.refusal(error) if field is not None else BadInput(words_of(error), where="value")
            else:
                rows.append(row)
        for index, (field, wide) in enumerate(zip(fields, arrays, strict=True)):
            arrays[index] = narrow = wide[: len(rows)].astype(field.dtype, copy=False)
            overflowed |= dict.fromkeys(overflows(narrow, wide[: len(rows)]), field)
    return (*taken(fields, arrays, rows, overflowed, errors), errors)


def overflows(narrow: Array, wide: Array) -> list[int]:
    """The places of rows in which a number has become infinite."""
    if narrow.dtype == wide.dtype or not has_infinity(narrow):
        return []
    places: list[int] = np.flatnonzero(overflown(narrow, wide).any(axis=1)).tolist()
    return places


def taken(
    fields: Sequence[Field],
    arrays: Sequence[Array],
    rows: list[int],
    overflowed: Mapping[int, Field],
    errors: dict[int, BadInput],
) -> tuple[dict[str, Array], list[int]]:
    """The tensors that flat arrays are, and their rows, without those at the places `overflowed`, whose errors are added."""
    if overflowed:
        kept = np.delete(np.arange(len(rows)), list(overflowed))
        for place, field in overflowed.items():
            errors[rows[place]] = field.refusal(OverflowError())
        arrays, rows = [array[kept] for array in arrays], [rows[place] for place in kept.tolist()]
    shaped = zip(fields, arrays, strict=True)
    return {field.name: array.reshape(len(rows), *field.inner) for field, array in shaped}, rows


def _escaped(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def steps_of(path: str) -> tuple[str, ...]:
    """The names on the way to a field: `path` is a name at the document's top, or `/a/b`."""
    if not path.startswith("/"):
        return (path,)
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:])


def _as_bytes(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if not isinstance(item, str):
        raise Misfit("expected text")
    return item.encode()


def _flatten(value: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) <= 1 or not value or not isinstance(value[0], list):
        return value
    if len(value) != shape[0] or any(not isinstance(item, list) for item in value):
        raise Misfit(f"the shape must be {list(shape)}")
    return [leaf for item in value for leaf in _flatten(item, shape[1:])]
