"""Avro and JSON as a schema registry frames them: which schema a value was written with stands before it, or in a header."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import fastavro

from cluster.errors import BadInput, NotFound
from cluster.foreign import words_of
from cluster.signature import Datatype, TensorSpec
from consumers.stream.codecs.avro_reading import Read, reader_of
from consumers.stream.codecs.codec import Decoded
from consumers.stream.codecs.codec_json import JsonDecoder, JsonEncoder
from consumers.stream.codecs.fields import REFUSED, make_fields, read_documents
from consumers.stream.codecs.framing import frame, unframe
from consumers.stream.codecs.registry import Schemas
from consumers.stream.log.port import Header
from deployments.engines.datatypes import Array

# What fastavro raises for bytes that are not of the schema.
_NOT_AVRO = (*REFUSED, EOFError, struct.error, MemoryError, ArithmeticError, AssertionError)
_AVRO = {Datatype.FP64: "double", Datatype.BOOL: "boolean", Datatype.BYTES: "bytes"}
_AVRO |= dict.fromkeys((Datatype.FP16, Datatype.FP32), "float")
_AVRO |= dict.fromkeys((Datatype.INT8, Datatype.INT16, Datatype.INT32, Datatype.UINT8, Datatype.UINT16), "int")
_AVRO |= dict.fromkeys((Datatype.INT64, Datatype.UINT32), "long")
_JSON = {Datatype.BOOL: "boolean", Datatype.BYTES: "string"}
_JSON |= dict.fromkeys((Datatype.FP16, Datatype.FP32, Datatype.FP64), "number")


class AvroDecoder:
    """See Decoder. Records are read with the schema that they were written with; fields are found by name or path."""

    def __init__(self, inputs: Sequence[TensorSpec], fields: Mapping[str, str], schemas: Schemas) -> None:
        self._fields = make_fields(inputs, fields)
        self._schemas = schemas
        self._readers: dict[int | str, Read | BadInput] = {}

    def decode(self, values: Sequence[bytes | None], headers: Sequence[Sequence[Header]] = ()) -> Decoded:
        """See Decoder."""
        documents: dict[int, Any] = {}
        errors: dict[int, BadInput] = {}
        for row, value in enumerate(values):
            try:
                schema_id, body = unframe(value, headers[row] if headers else ())
                read = self._reader(schema_id)
                if isinstance(read, BadInput):
                    errors[row] = read
                    continue
                source = io.BytesIO(body)
                documents[row] = read(source)
                if source.tell() != len(body):
                    raise BadInput(f"{len(body) - source.tell()} bytes too many", where="value", remedy="send one Avro record")
            except BadInput as error:
                documents.pop(row, None)
                errors[row] = error
            except NotFound as error:
                errors[row] = BadInput(error.what, where=error.where, remedy=error.remedy)
            except _NOT_AVRO as error:
                errors[row] = BadInput(f"not Avro: {words_of(error)}", where="value", remedy="send it as its schema says")
        tensors, rows, misfits = read_documents(self._fields, documents)
        return Decoded(tensors, rows, errors | misfits)

    def _reader(self, schema_id: int | str) -> Read | BadInput:
        read = self._readers.get(schema_id)
        if read is None:
            found = self._schemas.find(schema_id)
            try:
                read = reader_of(schema_id, found)
            except BadInput as error:  # it stays so: an id never changes its meaning
                read = error
            self._readers[schema_id] = read
        return read


class FramedJsonDecoder:
    """See Decoder. The schema must exist and be one of JSON; that the value keeps to it is its producer's matter."""

    def __init__(self, inputs: Sequence[TensorSpec], fields: Mapping[str, str], schemas: Schemas) -> None:
        self._inner = JsonDecoder(inputs, fields)
        self._schemas = schemas

    def decode(self, values: Sequence[bytes | None], headers: Sequence[Sequence[Header]] = ()) -> Decoded:
        """See Decoder."""
        bodies: list[bytes | None] = []
        errors: dict[int, BadInput] = {}
        for row, value in enumerate(values):
            body = None
            try:
                schema_id, body = unframe(value, headers[row] if headers else ())
                kind = self._schemas.find(schema_id).kind
                if kind != "JSON":
                    raise BadInput(
                        f"schema {schema_id} is of type {kind}", where="value", remedy="send JSON, or change input.format"
                    )
            except BadInput as error:
                body, errors[row] = None, error
            except NotFound as error:
                body, errors[row] = None, BadInput(error.what, where=error.where, remedy=error.remedy)
            bodies.append(body)
        decoded = self._inner.decode(bodies)
        return Decoded(decoded.tensors, decoded.rows, decoded.errors | errors)


class AvroEncoder:
    """See Encoder: one Avro record a row, of a schema registered as SUBJECT when this is made."""

    def __init__(self, outputs: Sequence[TensorSpec], subject: str, schemas: Schemas) -> None:
        schema = avro_schema(outputs)
        self._outputs = tuple(outputs)
        self._schema = fastavro.parse_schema(schema)
        self._prefix = frame(schemas.register(subject, "AVRO", schema))

    def encode(self, outputs: Mapping[str, Array]) -> list[bytes]:
        """See Encoder."""
        names = [spec.name for spec in self._outputs]
        columns = [outputs[name].tolist() for name in names]
        return [self._write(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]

    def _write(self, record: Mapping[str, Any]) -> bytes:
        sink = io.BytesIO()
        sink.write(self._prefix)
        fastavro.schemaless_writer(sink, self._schema, record)
        return sink.getvalue()


class FramedJsonEncoder:
    """See Encoder: one JSON object a row, of a schema registered as SUBJECT when this is made."""

    def __init__(self, outputs: Sequence[TensorSpec], subject: str, schemas: Schemas) -> None:
        self._inner = JsonEncoder(outputs)
        self._prefix = frame(schemas.register(subject, "JSON", json_schema(outputs)))

    def encode(self, outputs: Mapping[str, Array]) -> list[bytes]:
        """See Encoder."""
        return [self._prefix + body for body in self._inner.encode(outputs)]


def avro_schema(outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """A record with a field per output, lists in lists as its shape is. Raises BadInput where Avro has no such type or name."""
    fields = []
    for spec in outputs:
        if spec.datatype not in _AVRO or not spec.name.isidentifier():
            what = f"output {spec.name} ({spec.datatype}) can't be an Avro field"
            raise BadInput(what, where="output.format", remedy="use format json or raw")
        kind: Any = _AVRO[spec.datatype]
        for _ in spec.shape[1:]:
            kind = {"type": "array", "items": kind}
        fields.append({"name": spec.name, "type": kind})
    return {"type": "record", "name": "Prediction", "namespace": "headrace", "fields": fields}


def json_schema(outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """An object with a property per output, lists in lists as its shape is."""
    properties: dict[str, Any] = {}
    for spec in outputs:
        kind: dict[str, Any] = {"type": _JSON.get(spec.datatype, "integer")}
        if kind["type"] == "number":
            kind = {"type": ["number", "null", "string"]}  # NaN, and the infinities
        for _ in spec.shape[1:]:
            kind = {"type": "array", "items": kind}
        properties[spec.name] = kind
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Prediction",
        "type": "object",
        "properties": properties,
        "required": [spec.name for spec in outputs],
    }
