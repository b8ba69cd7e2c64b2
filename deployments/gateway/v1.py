"""The V1 protocol, `/v1/models/{m}:predict`, which KServe's REST client speaks by default.

Rows are nested lists, or objects by input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import simdjson

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.datatypes import Array
from deployments.gateway.request import InferRequest, with_document
from deployments.gateway.response import InferResponse, dumps
from deployments.gateway.tensors import MAX_AXES, from_json, parse_shape, to_json


def parse_v1(body: bytes | memoryview, signature: Signature) -> InferRequest:
    """Reads `{"instances": [row, ...]}`; a row is an object where the version has several inputs. Raises BadInput."""
    arrays = with_document(body, lambda document: _instances(document, signature))
    return InferRequest(arrays, {spec.name: spec.datatype for spec in signature.inputs})


def encode_v1(response: InferResponse) -> bytes:
    """`{"predictions": [row, ...]}`: a row is an object where there are several outputs. Raises BadInput where JSON can't."""
    columns = {output.name: _rows(output.name, output.datatype, output.array) for output in response.outputs}
    if len(columns) == 1:
        (predictions,) = columns.values()
    else:
        predictions = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    document = {"predictions": predictions, "model_name": response.model, "model_version": response.version}
    return dumps(document, response)


def _instances(document: simdjson.Object, signature: Signature) -> dict[str, Array]:
    instances = document.get("instances")
    if not isinstance(instances, simdjson.Array) or len(instances) == 0:
        raise BadInput("instances must be a list of at least one row", where="request")
    first: object = instances[0]
    if not isinstance(first, simdjson.Object):
        if len(signature.inputs) != 1:
            names = ", ".join(spec.name for spec in signature.inputs)
            raise BadInput(f"each instance must be an object with the inputs {names}", where="instances")
        return {signature.inputs[0].name: _column(signature.inputs[0], instances)}
    rows = instances.as_list()
    return {spec.name: _gather(spec, rows) for spec in signature.inputs}


def _gather(spec: TensorSpec, rows: list[Any]) -> Array:
    """One input's values out of all rows; these go through the one reader of numbers again."""
    if not all(isinstance(row, Mapping) and spec.name in row for row in rows):
        raise BadInput("an instance lacks the input", where=f"tensor {spec.name!r}")
    try:
        text = orjson.dumps({"column": [row[spec.name] for row in rows]})
    except TypeError:
        raise BadInput("its data is nested too deeply", where=f"tensor {spec.name!r}") from None
    document: Any = simdjson.Parser().parse(text)
    return _column(spec, document["column"])


def _column(spec: TensorSpec, values: simdjson.Array) -> Array:
    return from_json(spec.name, spec.datatype, parse_shape(_nested_shape(values), spec.name), values)


def _nested_shape(values: simdjson.Array) -> list[int]:
    shape: list[int] = []
    inner: object = values
    while isinstance(inner, simdjson.Array) and len(shape) <= MAX_AXES:
        shape.append(len(inner))
        inner = inner[0] if len(inner) else None
    return shape


def _rows(name: str, datatype: Datatype, array: Array) -> Any:
    flat = to_json(name, datatype, array)
    return flat.reshape(array.shape) if datatype is not Datatype.BYTES else _nest(flat, array.shape)


def _nest(flat: list[str], shape: tuple[int, ...]) -> list[Any]:
    nested: list[Any] = flat
    for axis in reversed(shape[1:]):
        nested = [nested[start : start + axis] for start in range(0, len(nested), axis)]
    return nested
