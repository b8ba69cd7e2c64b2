"""An answer to its bytes: JSON, with binary tensors after it where they were asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from cluster.signature import Datatype
from deployments.engines.datatypes import Array
from deployments.gateway.protocol.request import Parameter
from deployments.gateway.protocol.tensors import to_json, to_raw
from deployments.scoring.nonfinite import has_infinity, spoken

SLICE_ITEMS = 32_768  # of a large tensor in JSON: written in about a millisecond


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output, and whether it goes as binary."""

    name: str
    datatype: Datatype
    array: Array
    binary: bool = False


@dataclass(frozen=True, slots=True)
class InferResponse:
    """What is answered. `version` is the one that scored it, `rows` how many were asked."""

    model: str
    version: str
    outputs: tuple[OutputTensor, ...]
    id: str = ""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    rows: int = 0


def encode_response(response: InferResponse) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where tensors follow (else None). In JSON, NaN is null, and infinities are texts.

    Raises BadInput where an output can't be sent as JSON.
    """
    document: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = response.parameters
    tail: list[bytes] = []
    document["outputs"] = [_output(output, tail) for output in response.outputs]
    header = dumps(document, response)
    if not tail:
        return header, None
    return b"".join((header, *tail)), len(header)


def dumps(document: dict[str, Any], response: InferResponse) -> bytes:
    """The document of an answer as JSON."""
    written = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    # What is not finite orjson writes as null: seldom is there any, and to look for it here costs least.
    if b"null" in written and any(not output.binary and has_infinity(output.array) for output in response.outputs):
        return orjson.dumps(document, default=spoken)
    return written


def _output(output: OutputTensor, tail: list[bytes]) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": output.name, "datatype": output.datatype.value, "shape": list(output.array.shape)}
    if output.binary:
        raw = to_raw(output.datatype, output.array)
        tensor["parameters"] = {"binary_data_size": len(raw)}
        tail.append(raw)
    else:
        data = to_json(output.name, output.datatype, output.array)
        tensor["data"] = _in_slices(data) if len(data) > SLICE_ITEMS else data
    return tensor


def _in_slices(data: Any) -> orjson.Fragment:
    """Flat data as JSON. Written in one go, it would keep every other thread waiting: so long is the interpreter's lock held."""
    return orjson.Fragment(b"[%b]" % b",".join([_items(data[at : at + SLICE_ITEMS]) for at in range(0, len(data), SLICE_ITEMS)]))


def _items(part: Any) -> bytes:
    written = orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in written and isinstance(part, np.ndarray) and has_infinity(part):
        written = orjson.dumps(spoken(part))
    return written[1:-1]
