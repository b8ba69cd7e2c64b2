"""JSON with a field per input: `{"image": [0.0, ...]}`, nested as the shape is or flat.

Numbers go from the parser's own buffer into an array, a megabyte at a time: no Python float is ever made, and numpy, which
lets go of the interpreter's lock at each conversion of more than 500 items, converts seldom. To take the lock back from the
threads that score and send cost more than the conversions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import simdjson

from cluster.errors import BadInput
from cluster.foreign import first_line
from cluster.signature import Datatype, TensorSpec
from consumers.stream.codecs.codec import Decoded
from consumers.stream.codecs.fields import REFUSED, Field, Misfit, overflows, taken
from consumers.stream.log.port import Header
from deployments.engines.datatypes import Array
from deployments.scoring.nonfinite import has_infinity, spoken

STAGE_BYTES = 1024 * 1024


class _Field(Field):
    """A field of a document that the parser holds."""

    def read(self, document: Any, stage: _Stage, at: int) -> None:
        """Fills row `at` of the stage from the document, or raises one of REFUSED."""
        value = document.at_pointer(self.where) if self.where.startswith("/") else document[self.where]
        if self.kind is None or not hasattr(value, "as_buffer"):
            self.fill(value.as_list() if hasattr(value, "as_list") else value, stage.rows[at])
            return
        try:
            numbers = value.as_buffer(of_type=self.kind)
        except TypeError:  # null, or a text that stands for a number
            self.fill(value.as_list(), stage.rows[at])
            return
        size, length = memoryview(numbers).nbytes // stage.rows.itemsize, len(value)
        if size != self.size or (length != self.size and not self._nested(value, self.inner)):
            raise Misfit(f"the shape must be {list(self.inner)}, got {length} items and {size} numbers")
        if self.narrow:
            self.check_range(np.frombuffer(numbers, dtype=self.wire))
        stage.bytes[at * stage.row_bytes : (at + 1) * stage.row_bytes] = numbers

    def _nested(self, value: Any, shape: tuple[int, ...]) -> bool:
        if not hasattr(value, "as_buffer") or len(value) != shape[0]:
            return False
        return len(shape) == 1 or all(self._nested(item, shape[1:]) for item in value)


class _Stage:
    """Rows of one field as the parser gives them, before they are converted."""

    def __init__(self, field: Field, rows: int) -> None:
        dtype = field.wire if field.wire is not None else field.dtype
        self.rows: Array = np.empty((rows, field.size), dtype=dtype)
        self.row_bytes = field.size * dtype.itemsize
        self.bytes = self.rows.reshape(-1).view(np.uint8).data if field.wire is not None else memoryview(bytearray())


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
        widest = max((field.size * 8 for field in self._fields), default=0)
        self._step = max(1, STAGE_BYTES // max(widest, 1024))
        self._stages = [_Stage(field, self._step) for field in self._fields]

    def decode(self, values: Sequence[bytes | None], headers: Sequence[Sequence[Header]] = ()) -> Decoded:  # noqa: ARG002
        """See Decoder."""
        arrays = [np.empty((len(values), field.size), dtype=field.dtype) for field in self._fields]
        rows: list[int] = []
        errors: dict[int, BadInput] = {}
        overflowed: dict[int, Field] = {}
        at = 0
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(values), self._step):
                staged = self._stage(values, start, rows, errors)
                for field, array, stage in zip(self._fields, arrays, self._stages, strict=True):
                    array[at : at + staged] = stage.rows[:staged]
                    places = overflows(array[at : at + staged], stage.rows[:staged])
                    overflowed |= {at + place: field for place in places}
                at += staged
        tensors, rows = taken(self._fields, [array[:at] for array in arrays], rows, overflowed, errors)
        return Decoded(tensors, rows, errors)

    def _stage(self, values: Sequence[bytes | None], start: int, rows: list[int], errors: dict[int, BadInput]) -> int:
        """Reads the values from `start` on, as many as the stages take; returns how many of them hold rows."""
        parse, targets = self._parser.parse, list(zip(self._fields, self._stages, strict=True))
        at = 0
        for i, value in enumerate(values[start : start + self._step], start):
            field = None
            try:
                if value is None:
                    raise Misfit("no value")
                document = parse(value)
                if self._texts:
                    _check_texts(document, self._texts)
                for field, stage in targets:
                    field.read(document, stage, at)
            except REFUSED as error:
                errors[i] = _refusal(value, field, error)
            else:
                rows.append(i)
                at += 1
            document = None  # the parser refuses to go on while one of its proxies lives
        return at


def _check_texts(document: Any, names: Sequence[str]) -> None:
    for name in names:
        text = document.get(name)
        if not isinstance(text, str) or not text:
            raise Misfit(f"{name} must be text")


def _refusal(value: bytes | None, field: _Field | None, error: Exception) -> BadInput:
    if not value:
        return BadInput("the record has no value", where="value", remedy="send a JSON object")
    if field is None:
        return BadInput(f"not JSON: {_parser_words(error)}", where="value", remedy="send a JSON object with a field per input")
    return field.refusal(error)


def _parser_words(error: Exception) -> str:
    """The parser's texts are fixed, one for each of its codes."""
    return first_line(error)


class JsonEncoder:
    """See Encoder: one object a row, `{"probabilities": [...]}`."""

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        self._outputs = tuple(outputs)
        for spec in self._outputs:
            if spec.datatype is Datatype.BF16:
                raise BadInput(f"{spec.name} is BF16, which JSON can't carry", where="output.format", remedy="use format raw")

    def encode(self, outputs: Mapping[str, Array]) -> list[bytes]:
        """See Encoder. NaN becomes null, infinities texts, as JSON has neither."""
        columns = [self._column(spec, outputs[spec.name]) for spec in self._outputs]
        names = [spec.name for spec in self._outputs]
        dumps, option = orjson.dumps, orjson.OPT_SERIALIZE_NUMPY
        return [dumps(dict(zip(names, row, strict=True)), option=option) for row in zip(*columns, strict=True)]

    @staticmethod
    def _column(spec: TensorSpec, array: Array) -> list[Any]:
        if spec.datatype is Datatype.BYTES:
            return [_as_text(item) for item in array.tolist()]
        if has_infinity(array):
            return list(spoken(array))
        return list(np.ascontiguousarray(array)) if array.ndim > 1 else array.tolist()


def _as_text(item: Any) -> Any:
    if isinstance(item, list):
        return [_as_text(each) for each in item]
    return item.decode(errors="replace") if isinstance(item, bytes) else item
