"""JSON with a field per input: `{"image": [0.0, ...]}`, nested as the shape is or flat.

Numbers go from the parser's own buffer into a preallocated array: no Python float is ever made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import simdjson

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from consumers.stream.codec import Decoded
from deployments.datatypes import NUMPY, Array

_FLOATS = {Datatype.FP16, Datatype.FP32, Datatype.FP64}
_SIGNED = {Datatype.INT8, Datatype.INT16, Datatype.INT32, Datatype.INT64}
_UNSIGNED = {Datatype.UINT8, Datatype.UINT16, Datatype.UINT32, Datatype.UINT64}
# What the parser and numpy raise for a value that does not fit; anything else is a fault of ours.
_REFUSED = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError, IndexError)


class _Field:
    """One input: where it lies in a document, and how it becomes a row of the batch."""

    def __init__(self, spec: TensorSpec, path: str) -> None:
        self.name = spec.name
        self.where = path
        self._pointer = path if path.startswith("/") else None
        self.dtype = NUMPY[spec.datatype]
        self.inner = tuple(spec.shape[1:])
        self.size = math.prod(self.inner)
        self._datatype = spec.datatype
        kind = spec.datatype
        self._kind = "d" if kind in _FLOATS else "i" if kind in _SIGNED else "u" if kind in _UNSIGNED else None
        self._wire = np.dtype({"d": "f8", "i": "i8", "u": "u8"}[self._kind]) if self._kind else None
        self._narrow = self._kind in ("i", "u") and self._wire != self.dtype
        if kind is Datatype.BF16:
            raise BadInput(f"{spec.name} is BF16, which JSON can't carry", where="input.format", remedy="use format raw")

    def read(self, document: Any, row: Array) -> None:
        """Fills `row` (flat, `size` values) from the document, or raises one of _REFUSED."""
        value = document.at_pointer(self._pointer) if self._pointer else document[self.where]
        if self._kind is None or not hasattr(value, "as_buffer"):
            self._read_plain(value, row)
            return
        flat = np.frombuffer(value.as_buffer(of_type=self._kind), dtype=self._wire)
        length = len(value)
        if flat.size != self.size or (length != self.size and not self._nested(value, self.inner)):
            raise ValueError(f"the shape must be {list(self.inner)}, got {length} items and {flat.size} numbers")
        if self._narrow:
            _check_range(flat, self.dtype)
        row[:] = flat

    def _nested(self, value: Any, shape: tuple[int, ...]) -> bool:
        if not hasattr(value, "as_buffer") or len(value) != shape[0]:
            return False
        return len(shape) == 1 or all(self._nested(item, shape[1:]) for item in value)

    def _read_plain(self, value: Any, row: Array) -> None:
        plain = value.as_list() if hasattr(value, "as_list") else value
        flat = _flatten(plain, self.inner) if isinstance(plain, list) else [plain]
        if len(flat) != self.size:
            raise ValueError(f"the shape must be {list(self.inner)}, got {len(flat)} items")
        if self._datatype is Datatype.BYTES:
            row[:] = [_text(item) for item in flat]
            return
        wanted: tuple[type, ...] = (bool,) if self._kind is None else (int, float) if self._kind == "d" else (int,)
        if any(not isinstance(item, wanted) or (self._kind is not None and isinstance(item, bool)) for item in flat):
            raise TypeError(f"expected {self._datatype} values")
        if self._narrow:
            _check_range(np.array(flat, dtype=self._wire), self.dtype)
        row[:] = flat


def _text(item: object) -> bytes:
    if not isinstance(item, str):
        raise TypeError("expected text")
    return item.encode()


def _flatten(value: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) <= 1 or not value or not isinstance(value[0], list):
        return value
    if len(value) != shape[0] or any(not isinstance(item, list) for item in value):
        raise ValueError(f"the shape must be {list(shape)}")
    return [leaf for item in value for leaf in _flatten(item, shape[1:])]


def _check_range(flat: Array, dtype: np.dtype[np.generic]) -> None:
    bounds = np.iinfo(dtype)  # type: ignore[type-var]  # only asked for integers
    if flat.size and (flat.min() < bounds.min or flat.max() > bounds.max):
        raise OverflowError(f"a number lies outside {bounds.min}..{bounds.max}")


class JsonDecoder:
    """See Decoder. Not for several threads: the parser reuses its memory."""

    def __init__(self, inputs: Sequence[TensorSpec], fields: Mapping[str, str]) -> None:
        self._fields = [_Field(spec, fields.get(spec.name, spec.name)) for spec in inputs]
        self._parser = simdjson.Parser()

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """See Decoder."""
        arrays = [np.empty((len(values), field.size), dtype=field.dtype) for field in self._fields]
        rows: list[int] = []
        errors: dict[int, BadInput] = {}
        targets = list(zip(self._fields, arrays, strict=True))
        parse = self._parser.parse
        at = 0
        with np.errstate(over="ignore", invalid="ignore"):
            for i, value in enumerate(values):
                field = None
                try:
                    if value is None:
                        raise ValueError("no value")
                    document = parse(value)
                    for field, array in targets:
                        field.read(document, array[at])
                except _REFUSED as error:
                    errors[i] = _refusal(value, field, error)
                else:
                    rows.append(i)
                    at += 1
                document = None  # the parser refuses to go on while one of its proxies lives
        tensors = {field.name: array[:at].reshape(at, *field.inner) for field, array in targets}
        return Decoded(tensors, rows, errors)


def _refusal(value: bytes | None, field: _Field | None, error: Exception) -> BadInput:
    if not value:
        return BadInput("the record has no value", where="value", remedy="send a JSON object")
    if field is None:
        return BadInput(f"not JSON: {_first_line(error)}", where="value", remedy="send a JSON object with a field per input")
    if isinstance(error, KeyError):
        return BadInput("missing", where=field.where, remedy=f"send it with {field.size} values")
    return BadInput(_first_line(error), where=field.where, remedy=f"send {field.dtype} values of shape {list(field.inner)}")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


class JsonEncoder:
    """See Encoder: one object a row, `{"probabilities": [...]}`."""

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        self._outputs = tuple(outputs)
        for spec in self._outputs:
            if spec.datatype is Datatype.BF16:
                raise BadInput(f"{spec.name} is BF16, which JSON can't carry", where="output.format", remedy="use format raw")

    def encode(self, outputs: Mapping[str, Array]) -> list[bytes]:
        """See Encoder. NaN and infinity become null, as JSON has neither."""
        columns = [self._column(spec, outputs[spec.name]) for spec in self._outputs]
        names = [spec.name for spec in self._outputs]
        dumps, option = orjson.dumps, orjson.OPT_SERIALIZE_NUMPY
        return [dumps(dict(zip(names, row, strict=True)), option=option) for row in zip(*columns, strict=True)]

    @staticmethod
    def _column(spec: TensorSpec, array: Array) -> list[Any]:
        if spec.datatype is Datatype.BYTES:
            return [_as_text(item) for item in array.tolist()]
        return list(np.ascontiguousarray(array)) if array.ndim > 1 else array.tolist()


def _as_text(item: Any) -> Any:
    if isinstance(item, list):
        return [_as_text(each) for each in item]
    return item.decode(errors="replace") if isinstance(item, bytes) else item
