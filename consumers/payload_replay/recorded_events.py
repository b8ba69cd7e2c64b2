"""CloudEvents of a payload log's topic, read back request by request: our one event, or KServe's pairs. Pure."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from consumers.payload_replay.recorded import OTHER_INPUTS, RecordedRequest
from deployments.engines.datatypes import NUMPY, Array
from deployments.observe.payloads.cloudevents import OURS, REQUEST, RESPONSE
from deployments.observe.payloads.event import PayloadOutcome

# Of requests whose response has not come; both halves lie in one partition, the answer soon after the question.
MOST_HALVES = 10_000
_REMEDY = "name a topic that a payload log, ours or KServe's, has written"


class EventReader:
    """Of one partition, in order. Responses whose request lies there no more, and requests without a response, are left out."""

    def __init__(self, model: str, signature: Signature) -> None:
        self._model, self._signature = model, signature
        self._halves: dict[str, tuple[float, dict[str, Array]]] = {}

    def take(self, headers: Iterable[tuple[str, bytes]], value: bytes | None, where: str) -> RecordedRequest | None:
        """The request that this record completes, if it is one to the model. Raises BadInput where it is no such event, or not
        for this signature."""
        about = {name.lower(): text.decode("utf-8", "replace") for name, text in headers if text is not None}
        kind = about.get("ce_type")
        if kind not in (OURS, REQUEST, RESPONSE):
            raise BadInput("it is no event of a payload log: header ce_type is not one", where=where, remedy=_REMEDY)
        try:
            body = orjson.loads(value or b"")
            if kind == OURS:
                return self._whole(body, where)
            if about.get("ce_inferenceservicename", self._model) != self._model:
                return None
            return self._half(kind, about, body, where)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            # Never their text: it may hold values.
            raise BadInput("it is an event that can't be read", where=where, remedy=_REMEDY) from None

    def _whole(self, body: Mapping[str, Any], where: str) -> RecordedRequest | None:
        if body["model"] != self._model:
            return None
        outcome = PayloadOutcome(body["outcome"])
        outputs = self._outputs(body["outputs"], where) if outcome is not PayloadOutcome.ERROR else {}
        inputs = self._inputs(body["inputs"], where)
        return RecordedRequest(_seconds(body["time"]), outcome, inputs, outputs, _rows(inputs))

    def _half(self, kind: str, about: Mapping[str, str], body: Mapping[str, Any], where: str) -> RecordedRequest | None:
        pair = about["ce_id"]
        if kind == REQUEST:
            if len(self._halves) >= MOST_HALVES:
                self._halves.pop(next(iter(self._halves)))
            at = about.get("ce_recordedtime") or about["ce_time"]
            self._halves[pair] = _seconds(at), self._inputs(body["inputs"], where)
            return None
        asked = self._halves.pop(pair, None)
        if asked is None:
            return None
        at_s, inputs = asked
        outcome = PayloadOutcome.OK if "outputs" in body else PayloadOutcome.ERROR
        return RecordedRequest(at_s, outcome, inputs, self._outputs(body.get("outputs", []), where), _rows(inputs))

    def _inputs(self, told: Iterable[Mapping[str, Any]], where: str) -> dict[str, Array]:
        given = {one["name"]: one for one in told}
        absent = [spec.name for spec in self._signature.inputs if spec.name not in given]
        if absent:
            raise BadInput(f"it has no input {absent[0]}", where=where, remedy=OTHER_INPUTS)
        return {spec.name: _tensor(given[spec.name], spec, where) for spec in self._signature.inputs}

    def _outputs(self, told: Iterable[Mapping[str, Any]], where: str) -> dict[str, Array]:
        given = {one["name"]: one for one in told}
        return {spec.name: _tensor(given[spec.name], spec, where) for spec in self._signature.outputs if spec.name in given}


def _tensor(told: Mapping[str, Any], spec: TensorSpec, where: str) -> Array:
    shape = [int(axis) for axis in told["shape"]]
    data = _flat(told["data"])
    known = zip(shape[1:], spec.shape[1:], strict=False)
    if len(shape) != len(spec.shape) or any(axis not in (-1, given) for given, axis in known) or len(data) != np.prod(shape):
        what = f"{spec.name} is {shape}, which is not {list(spec.shape)}"
        raise BadInput(what, where=where, remedy="replay it to a version with the inputs that it was recorded for")
    if spec.datatype is not Datatype.BYTES:
        dtype = NUMPY[spec.datatype]
        # JSON has no NaN.
        plain = [np.nan if value is None else value for value in data] if dtype.kind == "f" else data
        return np.array(plain, dtype).reshape(shape)
    array = np.empty(len(data), np.object_)
    encoded = told.get("parameters", {}).get("content_encoding") == "base64"
    array[:] = [base64.b64decode(text) if encoded else text.encode() for text in data]
    return array.reshape(shape)


def _flat(data: Any) -> list[Any]:
    """KServe keeps what callers sent, who may nest it."""
    while data and isinstance(data[0], list):
        data = [value for part in data for value in part]
    return list(data)


def _rows(inputs: Mapping[str, Array]) -> int:
    return len(next(iter(inputs.values())))


def _seconds(at: str) -> float:
    return datetime.datetime.fromisoformat(at).timestamp()
