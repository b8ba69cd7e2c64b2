"""The V1 protocol, `/v1/models/{m}:predict`, which KServe's REST client speaks by default.

Rows (`instances`) are nested lists, or objects by input. Columns (`inputs`, as TensorFlow Serving takes them) are the same for
all rows at once. Bytes may stand as `{"b64": ...}`.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import simdjson

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.datatypes import Array
from deployments.gateway.protocol.request import InferRequest, with_document
from deployments.gateway.protocol.response import InferResponse, dumps
from deployments.gateway.protocol.tensors import MAX_AXES, flatten, from_json, from_objects, parse_shape, to_json

B64 = "b64"
SHORT_ITEMS, ITEM_BYTES = 16, 8


@dataclass(frozen=True, slots=True)
class V1Request(InferRequest):
    """What was asked, and whether by columns: then it is answered so."""

    columns: bool = False


def parse_v1(body: bytes | memoryview, signature: Signature) -> V1Request:
    """Reads `{"instances": [row, ...]}` or `{"inputs": columns}`; a row, or the columns, are an object where the version has
    several inputs. Raises BadInput."""
    arrays, columns = with_document(body, lambda document: _read(document, signature))
    return V1Request(arrays, {spec.name: spec.datatype for spec in signature.inputs}, columns=columns)


def encode_v1(response: InferResponse, *, columns: bool = False) -> bytes:
    """`{"predictions": [row, ...]}`: a row is an object where there are several outputs; or `{"outputs": columns}`. Raises
    BadInput where JSON can't."""
    found = {output.name: rows_of(output.name, output.datatype, output.array) for output in response.outputs}
    document: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if columns:
        document["outputs"] = next(iter(found.values())) if len(found) == 1 else found
    elif len(found) == 1:
        (document["predictions"],) = found.values()
    else:
        document["predictions"] = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    return dumps(document, response)


def _read(document: simdjson.Object, signature: Signature) -> tuple[dict[str, Array], bool]:
    if "inputs" in document and "instances" not in document:
        return _columns(document["inputs"], signature), True
    return _instances(document, signature), False


def _columns(inputs: object, signature: Signature) -> dict[str, Array]:
    only = signature.inputs[0] if len(signature.inputs) == 1 else None
    if only is not None and isinstance(inputs, simdjson.Array):
        return {only.name: _column(only, inputs)}
    names = ", ".join(spec.name for spec in signature.inputs)
    if not isinstance(inputs, simdjson.Object):
        raise BadInput(f"it must be an object with the inputs {names}", where="inputs")
    arrays: dict[str, Array] = {}
    for spec in signature.inputs:
        column = inputs.get(spec.name)
        if not isinstance(column, simdjson.Array):
            raise BadInput("it must be a list of all rows", where=f"tensor {spec.name!r}", remedy=f"its inputs: {names}")
        arrays[spec.name] = _column(spec, column)
    return arrays


def _instances(document: simdjson.Object, signature: Signature) -> dict[str, Array]:
    instances = document.get("instances")
    if not isinstance(instances, simdjson.Array) or len(instances) == 0:
        raise BadInput("instances must be a list of at least one row", where="request", remedy='or send "inputs", by columns')
    first: object = instances[0]
    if not isinstance(first, simdjson.Object) or (list(first) == [B64] and signature.input(B64) is None):
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
    nested = parse_shape(_nested_shape(values), spec.name)
    if not _is_even(values, nested[1:]) or not _is_full(values, nested[1:], spec.name):
        what = "its rows are of different lengths"
        raise BadInput(what, where=f"tensor {spec.name!r}", remedy=f"each list must be as long as the first: {list(nested)}")
    shape = _row_shape(spec, nested)
    if spec.datatype is Datatype.BYTES:
        return from_objects(spec.name, shape, values.as_list(), lambda item: _text(spec, item))
    return from_json(spec.name, spec.datatype, shape, values)


def _row_shape(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A row may be flat, and one of a single value just that: where its size leaves no doubt, it is as the signature says."""
    inner = spec.shape[1:]
    flat = len(shape) != len(spec.shape) and len(shape) <= 2 and -1 not in inner
    return (shape[0], *inner) if flat and math.prod(inner) == math.prod(shape[1:]) else shape


def _text(spec: TensorSpec, item: object) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, Mapping) and list(item) == [B64] and isinstance(item[B64], str):
        try:
            return base64.b64decode(item[B64], validate=True)
        except (binascii.Error, ValueError):
            raise BadInput("what is in b64 is not base64", where=f"tensor {spec.name!r}") from None
    raise BadInput('the data of BYTES must be strings, or {"b64": ...}', where=f"tensor {spec.name!r}")


def _nested_shape(values: simdjson.Array) -> list[int]:
    shape: list[int] = []
    inner: object = values
    while isinstance(inner, simdjson.Array) and len(shape) <= MAX_AXES:
        shape.append(len(inner))
        inner = inner[0] if len(inner) else None
    return shape


def _is_even(values: Any, inner: tuple[int, ...]) -> bool:
    """Whether each row is as long as the first, and each list in it: of uneven ones, whose numbers may come out right in all, a
    row would get its neighbour's numbers. Below the rows, short lists are not looked at: it takes as long as to read them. See
    `_is_full`."""
    if not inner:
        return True
    try:
        if set(map(len, values)) != {inner[0]}:
            return False
    except TypeError:  # not a list
        return False
    return len(inner) == 1 or inner[1] < SHORT_ITEMS or all(_is_even(item, inner[1:]) for item in values)


def _is_full(values: simdjson.Array, inner: tuple[int, ...], name: str) -> bool:
    """Whether each row has as many numbers as the first should have, where short lists in rows were not looked at: what is uneven
    in them is the row's own affair then."""
    if len(inner) < 2 or min(inner[1:]) >= SHORT_ITEMS:
        return True
    count = math.prod(inner)
    return all(isinstance(row, simdjson.Array) and _items(row, name) == count for row in values)


def _items(row: simdjson.Array, name: str) -> int:
    try:
        return memoryview(row.as_buffer(of_type="d")).nbytes // ITEM_BYTES  # without a Python number
    except (TypeError, ValueError):  # there are others than numbers among them
        return sum(1 for _ in flatten(row.as_list(), f"tensor {name!r}"))


def rows_of(name: str, datatype: Datatype, array: Array) -> Any:
    flat = to_json(name, datatype, array)
    return flat.reshape(array.shape) if datatype is not Datatype.BYTES else _nest(flat, array.shape)


def _nest(flat: list[str], shape: tuple[int, ...]) -> list[Any]:
    if not flat:
        none: list[Any] = np.empty(shape).tolist()  # lists of no length can't be cut from a flat one
        return none
    nested: list[Any] = flat
    for axis in reversed(shape[1:]):
        nested = [nested[start : start + axis] for start in range(0, len(nested), axis)]
    return nested
