"""Events as records of a topic: headers and JSON bodies of CloudEvents 1.0 in Kafka's binary mode. Pure.

`of_ours` is one event a prediction, `of_kserve` the two that KServe's payload logger makes. Bodies hold tensors as OIP writes
them; JSON has no NaN and no Infinity, so those are null.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from cluster.signature import Datatype
from deployments.engines.datatypes import NUMPY, Array
from deployments.observe.payloads.event import PayloadEvent, PayloadOutcome

OURS = "headrace.prediction"
REQUEST = "org.kubeflow.serving.inference.request"
RESPONSE = "org.kubeflow.serving.inference.response"
_DATATYPE = {dtype: datatype.value for datatype, dtype in NUMPY.items() if datatype is not Datatype.BF16}


@dataclass(frozen=True, slots=True)
class PayloadRecord:
    """What goes on a topic. Both halves of a pair have one key, and so one partition."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def of_ours(event: PayloadEvent) -> list[PayloadRecord]:
    """One event that says everything."""
    body: dict[str, Any] = {
        "id": event.id,
        "time": _time(event.at_s),
        "way": event.way.value,
        "model": event.model,
        "version": event.version,
        "versions": event.versions.tolist(),
        "outcome": event.outcome.value,
        "error": event.error,
        "weight": event.weight,
        "request_id": event.request_id,
        "trace_id": event.trace_id,
        "label_keys": list(event.label_keys),
        "inputs": _tensors(event.inputs),
        "outputs": _tensors(event.outputs or {}),
    }
    return [_record(event, OURS, body)]


def of_kserve(event: PayloadEvent) -> list[PayloadRecord]:
    """The request, and its response where there was one. A prediction that failed has an `error` for its response."""
    request = {"id": event.request_id or event.id, "inputs": _tensors(event.inputs)}
    response: dict[str, Any] = {"model_name": event.model, "model_version": str(event.version), "id": request["id"]}
    if event.outcome is PayloadOutcome.ERROR:
        response["error"] = event.error
    else:
        response["outputs"] = _tensors(event.outputs or {})
    return [_record(event, REQUEST, request), _record(event, RESPONSE, response)]


def _record(event: PayloadEvent, kind: str, body: dict[str, Any]) -> PayloadRecord:
    about = {
        "specversion": "1.0",
        "id": event.id,
        "source": f"/headrace/models/{event.model}",
        "type": kind,
        "time": _time(event.at_s),
        "inferenceservicename": event.model,
        "namespace": "headrace",
        "component": "predictor",
        "endpoint": str(event.version),
        "recordedtime": _time(event.at_s),
        "sampledrate": str(max(round(event.weight), 1)),
    }
    headers = [(f"ce_{name}", value.encode()) for name, value in about.items()]
    return PayloadRecord(event.id.encode(), orjson.dumps(body), [*headers, ("content-type", b"application/json")])


def _time(at_s: float) -> str:
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).isoformat().replace("+00:00", "Z")


def _tensors(tensors: Mapping[str, Array]) -> list[dict[str, Any]]:
    return [_tensor(name, tensor) for name, tensor in tensors.items()]


def _tensor(name: str, tensor: Array) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "shape": list(tensor.shape)}
    if tensor.dtype != np.object_:
        return {**about, "datatype": _DATATYPE[tensor.dtype], "data": tensor.ravel().tolist()}
    items = tensor.ravel().tolist()
    try:
        return {**about, "datatype": "BYTES", "data": [item.decode() for item in items]}
    except UnicodeDecodeError:
        told = [base64.b64encode(item).decode() for item in items]
        return {**about, "datatype": "BYTES", "parameters": {"content_encoding": "base64"}, "data": told}
