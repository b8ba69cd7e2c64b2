"""JSON with a field per input: `{"image": [0.0, ...]}`, nested as the shape is or flat.

Numbers go from the parser's own buffer into a preallocated array: no Python float is ever made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import simdjson

from cluster.errors import BadInput
from cluster.signature import Datatype, TensorSpec
from consumers.stream.codec import Decoded
from consumers.stream.fields import REFUSED, Field, first_line
from consumers.stream.log import Header
from deployments.datatypes import Array


class _Field(Field):
    """A field of a document that the parser holds."""

    def read(self, document: Any, row: Array) -> None:
        """Fills `row` (flat, `size` values) from the document, or raises one of REFUSED."""
        value = document.at_pointer(self.where) if self.where.startswith("/") else document[self.where]
        if self.kind is None or not hasattr(value, "as_buffer"):
            self.fill(value.as_list() if hasattr(value, "as_list") else value, row)
            return
        flat = np.frombuffer(value.as_buffer(of_type=self.kind), dtype=self.wire)
        length = len(value)
        if flat.size != self.size or (length != self.size and not self._nested(value, self.inner)):
            raise ValueError(f"the shape must be {list(self.inner)}, got {length} items and {flat.size} numbers")
        if self.narrow:
            self.check_range(flat)
        row[:] = flat

    def _nested(self, value: Any, shape: tuple[int, ...]) -> bool:
        if not hasattr(value, "as_buffer") or len(value) != shape[0]:
            return False
        return len(shape) == 1 or all(self._nested(item, shape[1:]) for item in value)


class JsonDecoder:
    """See Decoder. Not for several threads: the parser reuses its memory.

    `under` is the path of the object that holds the inputs; `texts` are fields at the top that must hold text.
    """

    def __init__(
        self, inputs: Sequence[TensorSpec], fields: Mapping[str, str], *, under: str = "", texts: Sequence[str] = ()
    ) -> None:
        self._fields = [_Field(spec, fields.get(spec.name, spec.name), under=under) for spec in inputs]
        self._texts = tuple(texts)
        self._parser = simdjson.Parser()

    def decode(self, values: Sequence[bytes | None], headers: Sequence[Sequence[Header]] = ()) -> Decoded:  # noqa: ARG002
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
                    if self._texts:
                        _check_texts(document, self._texts)
                    for field, array in targets:
                        field.read(document, array[at])
                except REFUSED as error:
                    errors[i] = _refusal(value, field, error)
                else:
                    rows.append(i)
                    at += 1
                document = None  # the parser refuses to go on while one of its proxies lives
        tensors = {field.name: array[:at].reshape(at, *field.inner) for field, array in targets}
        return Decoded(tensors, rows, errors)


def _check_texts(document: Any, names: Sequence[str]) -> None:
    for name in names:
        text = document.get(name)
        if not isinstance(text, str) or not text:
            raise ValueError(f"{name} must be text")


def _refusal(value: bytes | None, field: _Field | None, error: Exception) -> BadInput:
    if not value:
        return BadInput("the record has no value", where="value", remedy="send a JSON object")
    if field is None:
        return BadInput(f"not JSON: {first_line(error)}", where="value", remedy="send a JSON object with a field per input")
    return field.refusal(error)


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
