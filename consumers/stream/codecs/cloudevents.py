"""CloudEvents 1.0 over Kafka: binary (attributes are headers) and structured (the value is a JSON envelope)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence

import numpy as np
import orjson

from cluster.errors import BadInput
from consumers.stream.codecs.codec import Decoded, Decoder
from consumers.stream.log.port import Header
from consumers.stream.spec import Format, OutputEnvelope

REQUIRED = ("specversion", "id", "source", "type")
STRUCTURED = "application/cloudevents+json"
CONTENT_TYPE = "content-type"
EVENT_TYPE = "headrace.prediction"
MEDIA = {
    Format.JSON: "application/json",
    Format.JSON_SCHEMA: "application/json",
    Format.AVRO: "application/avro",
    Format.ARROW: "application/vnd.apache.arrow.stream",
    Format.RAW: "application/octet-stream",
}
OPEN = "send a CloudEvent: ce_* headers, or the content type application/cloudevents+json"


class CloudEventsDecoder:
    """See Decoder. Takes both modes, a record at a time; `structured` decodes whole envelopes, `binary` bare data."""

    def __init__(self, binary: Decoder, structured: Decoder) -> None:
        self._binary, self._structured = binary, structured

    def decode(self, values: Sequence[bytes | None], headers: Sequence[Sequence[Header]] = ()) -> Decoded:
        """See Decoder."""
        bare: list[int] = []
        whole: list[int] = []
        errors: dict[int, BadInput] = {}
        for row in range(len(values)):
            attributes = dict(headers[row]) if headers else {}
            if (attributes.get(CONTENT_TYPE) or b"").startswith(STRUCTURED.encode()):
                whole.append(row)
            elif missing := [name for name in REQUIRED if not attributes.get(f"ce_{name}")]:
                errors[row] = BadInput("missing", where=f"header ce_{missing[0]}", remedy=OPEN)
            else:
                bare.append(row)
        groups = [(bare, self._binary), (whole, self._structured)]
        parts = [(rows, _decode(decoder, rows, values, headers)) for rows, decoder in groups if rows]
        return _merged(parts, errors, self._binary)


def _decode(
    decoder: Decoder, rows: Sequence[int], values: Sequence[bytes | None], headers: Sequence[Sequence[Header]]
) -> Decoded:
    if len(rows) == len(values):
        return decoder.decode(values, headers)
    return decoder.decode([values[row] for row in rows], [headers[row] for row in rows])


def _merged(parts: Sequence[tuple[Sequence[int], Decoded]], errors: dict[int, BadInput], any_decoder: Decoder) -> Decoded:
    for owners, decoded in parts:
        errors |= {owners[row]: error for row, error in decoded.errors.items()}
    filled = [([owners[row] for row in decoded.rows], decoded.tensors) for owners, decoded in parts if len(decoded.rows)]
    if not filled:
        return Decoded(any_decoder.decode([]).tensors, [], errors)
    if len(filled) == 1:
        return Decoded(filled[0][1], filled[0][0], errors)
    rows = [row for owners, _ in filled for row in owners]
    order = np.argsort(rows)
    names = filled[0][1]
    return Decoded({name: np.concatenate([part[name] for _, part in filled])[order] for name in names}, sorted(rows), errors)


class EnvelopeDecoder:
    """See Decoder. For formats other than JSON: takes `data_base64` out of a structured event."""

    def __init__(self, inner: Decoder) -> None:
        self._inner = inner

    def decode(self, values: Sequence[bytes | None], headers: Sequence[Sequence[Header]] = ()) -> Decoded:
        """See Decoder."""
        bodies: list[bytes | None] = []
        errors: dict[int, BadInput] = {}
        for row, value in enumerate(values):
            try:
                bodies.append(_data_of(value))
            except BadInput as error:
                bodies.append(None)
                errors[row] = error
        decoded = self._inner.decode(bodies, headers)
        return Decoded(decoded.tensors, decoded.rows, decoded.errors | errors)


def _data_of(value: bytes | None) -> bytes:
    try:
        event = orjson.loads(value or b"")
    except orjson.JSONDecodeError as error:
        raise BadInput(f"not JSON: {error}", where="value", remedy=OPEN) from error
    if not isinstance(event, dict):
        raise BadInput("no JSON object", where="value", remedy=OPEN)
    for name in REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            raise BadInput("missing", where=name, remedy=OPEN)
    try:
        return base64.b64decode(event.get("data_base64") or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise BadInput(f"not base64: {error}", where="data_base64", remedy="send the data in base64") from error


def about_event(headers: Sequence[Header]) -> list[Header]:
    """The headers without those that describe the event that came in: they would be untrue of the answer."""
    return [header for header in headers if header[0] != CONTENT_TYPE and not header[0].startswith("ce_")]


class Envelope:
    """How answers leave as CloudEvents. `source` is `/headrace/MODEL`; the id is the prediction's."""

    def __init__(self, mode: OutputEnvelope, format_: Format, model: str) -> None:
        self.mode = mode
        self._media, self._text = MEDIA[format_], format_ is Format.JSON
        self._source = f"/headrace/{model}"
        self._fixed: list[Header] = [
            ("ce_specversion", b"1.0"),
            ("ce_source", self._source.encode()),
            ("ce_type", EVENT_TYPE.encode()),
            (CONTENT_TYPE, self._media.encode()),
        ]

    def headers(self, prediction_id: bytes) -> list[Header]:
        """Those of one answer."""
        if self.mode is OutputEnvelope.BINARY:
            return [*self._fixed, ("ce_id", prediction_id)]
        return [(CONTENT_TYPE, f"{STRUCTURED}; charset=utf-8".encode())]

    def wrap(self, body: bytes | None, prediction_id: bytes) -> bytes | None:
        """The value of one answer. A tombstone stays one."""
        if self.mode is OutputEnvelope.BINARY or body is None:
            return body
        event: Mapping[str, object] = {
            "specversion": "1.0",
            "id": prediction_id.decode(),
            "source": self._source,
            "type": EVENT_TYPE,
            "datacontenttype": self._media,
            **({"data": orjson.Fragment(body)} if self._text else {"data_base64": base64.b64encode(body).decode()}),
        }
        return orjson.dumps(event)
