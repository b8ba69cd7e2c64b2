"""An inference request from its bytes: JSON, binary tensors after it, a mix of both, or one raw tensor."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import simdjson

from cluster.errors import BadInput
from cluster.signature import Datatype, Signature, TensorSpec
from deployments.engines.datatypes import NUMPY, Array
from deployments.gateway.protocol.tensors import from_json, from_raw, kind_of, parse_datatype, parse_shape
from deployments.scoring.nonfinite import REMEDY

# Callers send the same head again and again before tensors that differ: 3 kB of binary are then read in 3 us instead of 8.
HEAD_MOST_BYTES, HEADS_MOST = 4096, 256
KEEP_PARSER_BYTES = 1 << 20  # a parser keeps room for its largest document: one that has seen more is dropped
MAX_TENSORS = 1024
MAX_NAME = 1024

Parameter = str | int | float | bool
T = TypeVar("T")
_thread = threading.local()


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output asked for by name. `binary` None: as the request says for all."""

    name: str
    binary: bool | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What was asked. `inputs` are numpy arrays, read-only where they share the body's memory; `datatypes` as they were sent.

    `outputs` is None where none were named: then all are wanted. `binary` is the request's wish for outputs that name none.
    """

    inputs: dict[str, Array]
    datatypes: dict[str, Datatype]
    id: str = ""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    outputs: tuple[RequestedOutput, ...] | None = None
    binary: bool = False


def parse_request(body: bytes | memoryview, header_bytes: int | None = None) -> InferRequest:
    """Reads a request whose JSON takes `header_bytes` (None: all of the body). Raises BadInput."""
    view = memoryview(body)
    if view.nbytes == 0 and header_bytes is None:
        raise BadInput("the body is empty", where="request", remedy="send inputs, as /v2/models/MODEL describes them")
    length = view.nbytes if header_bytes is None else header_bytes
    if not 0 < length <= view.nbytes:
        raise BadInput(
            f"Inference-Header-Content-Length is {length}, but the body has {view.nbytes} bytes",
            where="Inference-Header-Content-Length",
        )
    if header_bytes is not None and length <= HEAD_MOST_BYTES:
        head = _known_head(bytes(view[:length]))
        if head is not None:
            return _filled(head, [None] * len(head.inputs), view[length:])
    return with_document(view[:length], lambda document: _filled(*_read(document), view[length:]))


def parse_raw_request(body: bytes | memoryview, signature: Signature) -> InferRequest:
    """Reads a body that is one tensor and nothing else (header length 0), for a version with a single input. Raises BadInput."""
    if len(signature.inputs) != 1:
        raise BadInput(f"a raw request takes a version with one input; this one has {len(signature.inputs)}", where="request")
    spec = signature.inputs[0]
    view = memoryview(body)
    where = f"tensor {spec.name!r}"
    inner = spec.shape[1:]
    if sum(axis < 0 for axis in inner) == 1 and spec.datatype is not Datatype.BYTES:
        return _one_row(spec, view)
    if any(axis < 0 for axis in inner):
        raise BadInput(f"its shape {list(spec.shape)} can't be told from raw bytes", where=where, remedy="send the shape")
    if spec.datatype is Datatype.BYTES:
        array = from_raw(spec.name, spec.datatype, (1, *spec.shape[1:]), _one_element(view))
    else:
        row_bytes = math.prod(spec.shape[1:]) * NUMPY[spec.datatype].itemsize
        if row_bytes == 0 or view.nbytes == 0 or view.nbytes % row_bytes:
            raise BadInput(f"a row takes {row_bytes} bytes; got {view.nbytes}", where=where)
        array = from_raw(spec.name, spec.datatype, (view.nbytes // row_bytes, *spec.shape[1:]), view)
    return InferRequest({spec.name: array}, {spec.name: spec.datatype}, binary=True)


def _one_row(spec: TensorSpec, view: memoryview) -> InferRequest:
    """A single row, whose free axis is as long as its bytes say."""
    fixed_bytes = math.prod(axis for axis in spec.shape[1:] if axis >= 0) * NUMPY[spec.datatype].itemsize
    if fixed_bytes == 0 or view.nbytes == 0 or view.nbytes % fixed_bytes:
        what = f"its free axis takes {fixed_bytes} bytes a step; got {view.nbytes}"
        raise BadInput(what, where=f"tensor {spec.name!r}", remedy="send whole steps, or the shape")
    shape = (1, *(view.nbytes // fixed_bytes if axis < 0 else axis for axis in spec.shape[1:]))
    return InferRequest({spec.name: from_raw(spec.name, spec.datatype, shape, view)}, {spec.name: spec.datatype}, binary=True)


def with_document(data: bytes | memoryview, read: Callable[[simdjson.Object], T]) -> T:
    """Parses a JSON object with this thread's parser and returns `read(object)`, which must keep nothing of the object.

    Raises BadInput where the data is no JSON object.
    """
    parser = getattr(_thread, "parser", None) or simdjson.Parser()
    # A parser refuses to be used while anything of its last document lives, as in a traceback: only a clean end gives it back.
    _thread.parser = None
    try:
        document = parser.parse(data)
    except (ValueError, RuntimeError, TypeError) as error:
        fault = str(error).partition(":")[2].strip() or str(error)
        remedy = f"JSON has no NaN and no Infinity: {REMEDY}"
        raise BadInput(f"not valid JSON: {fault}", where="request", remedy=remedy) from None
    if not isinstance(document, simdjson.Object):
        raise BadInput("the JSON must be an object", where="request")
    try:
        result = read(document)
    finally:
        del document
    if len(data) <= KEEP_PARSER_BYTES:
        _thread.parser = parser
    return result


class _Members:
    """An object's members. Asked for one that it lacks, simdjson raises and catches, which costs more than a small document."""

    __slots__ = ("_names", "_object")

    def __init__(self, of: simdjson.Object) -> None:
        self._object = of
        self._names = list(of)

    def get(self, name: str) -> object:
        """The member of that name, or None."""
        return self._object[name] if name in self._names else None


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input without its data, which takes `size_bytes` behind the JSON; None where it is in the JSON."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Head:
    """All of a request but its data."""

    id: str
    parameters: dict[str, Parameter]
    inputs: tuple[_Tensor, ...]
    outputs: tuple[RequestedOutput, ...] | None
    binary: bool


@functools.lru_cache(HEADS_MOST)
def _known_head(data: bytes) -> _Head | None:
    """The head that this JSON is; None where it has data too. Raises BadInput."""

    def read(document: simdjson.Object) -> _Head | None:
        head, data = _read(document)
        return head if all(one is None for one in data) else None

    return with_document(data, read)


def _read(request: simdjson.Object) -> tuple[_Head, list[simdjson.Array | None]]:
    """The head, and the data of each input that has it in the JSON."""
    document = _Members(request)
    identity = document.get("id")
    if identity is not None and not isinstance(identity, str):
        raise BadInput("id must be a string", where="request")
    parameters = _parameters(document.get("parameters"), "request")
    inputs: dict[str, _Tensor] = {}
    data: list[simdjson.Array | None] = []
    for tensor in map(_Members, _list(document.get("inputs"), "inputs")):
        name = _name(tensor, "input")
        if name in inputs:
            raise BadInput("the input is given twice", where=f"tensor {name!r}")
        inputs[name], its_data = _input(tensor, name)
        data.append(its_data)
    binary = _flag(parameters, "binary_data_output", "request")
    return _Head(identity or "", parameters, tuple(inputs.values()), _outputs(document.get("outputs")), binary), data


def _input(tensor: _Members, name: str) -> tuple[_Tensor, simdjson.Array | None]:
    where = f"tensor {name!r}"
    datatype = parse_datatype(tensor.get("datatype"), name)
    shape = tensor.get("shape")
    axes = parse_shape(shape.as_list() if isinstance(shape, simdjson.Array) else shape, name)
    size, data = _parameters(tensor.get("parameters"), where).get("binary_data_size"), tensor.get("data")
    if size is None:
        if not isinstance(data, simdjson.Array):
            raise BadInput("data must be a list", where=where, remedy="give data or binary_data_size (not shared memory)")
        return _Tensor(name, datatype, axes, None), data
    if data is not None:
        raise BadInput("it has both data and binary_data_size", where=where)
    if type(size) is not int or size < 0:
        raise BadInput(f"binary_data_size must be a number of bytes; got {kind_of(size)}", where=where)
    return _Tensor(name, datatype, axes, size), None


def _filled(head: _Head, data: Sequence[simdjson.Array | None], tail: memoryview) -> InferRequest:
    """The request of this head, with data from the JSON, and from what follows it."""
    arrays: dict[str, Array] = {}
    at = 0
    for tensor, its_data in zip(head.inputs, data, strict=True):
        if its_data is not None:
            arrays[tensor.name] = from_json(tensor.name, tensor.datatype, tensor.shape, its_data)
            continue
        size = tensor.size_bytes or 0
        if size > tail.nbytes - at:
            what = f"binary_data_size is {size}, but {tail.nbytes - at} bytes are left in the body"
            raise BadInput(what, where=f"tensor {tensor.name!r}")
        arrays[tensor.name] = from_raw(tensor.name, tensor.datatype, tensor.shape, tail[at : at + size])
        at += size
    if at != tail.nbytes:
        raise BadInput(f"{tail.nbytes - at} bytes follow the last tensor", where="request")
    datatypes = {tensor.name: tensor.datatype for tensor in head.inputs}
    return InferRequest(arrays, datatypes, head.id, head.parameters, head.outputs, head.binary)


def _outputs(outputs: object) -> tuple[RequestedOutput, ...] | None:
    if outputs is None or (isinstance(outputs, simdjson.Array) and len(outputs) == 0):
        return None
    wanted: dict[str, RequestedOutput] = {}
    for output in map(_Members, _list(outputs, "outputs")):
        name = _name(output, "output")
        where = f"output {name!r}"
        if name in wanted:
            raise BadInput("the output is asked for twice", where=where)
        parameters = _parameters(output.get("parameters"), where)
        for unsupported in ("classification", "shared_memory_region"):
            if parameters.get(unsupported):
                raise BadInput(f"{unsupported} is not supported", where=where)
        wanted[name] = RequestedOutput(name, _flag(parameters, "binary_data", where) if "binary_data" in parameters else None)
    return tuple(wanted.values())


def _list(value: object, what: str) -> list[simdjson.Object]:
    if not isinstance(value, simdjson.Array) or not 0 < len(value) <= MAX_TENSORS:
        raise BadInput(f"{what} must be a list of 1 to {MAX_TENSORS} tensors", where="request")
    tensors = [tensor for tensor in value if isinstance(tensor, simdjson.Object)]
    if len(tensors) != len(value):
        raise BadInput(f"each of {what} must be an object", where="request")
    return tensors


def _name(tensor: _Members, what: str) -> str:
    name = tensor.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise BadInput(f"each {what} needs a name of 1 to {MAX_NAME} characters", where="request")
    return name


def _parameters(value: object, where: str) -> dict[str, Parameter]:
    if value is None:
        return {}
    if not isinstance(value, simdjson.Object):
        raise BadInput("parameters must be an object", where=where)
    parameters: dict[str, Parameter] = {}
    for name, parameter in value.as_dict().items():
        if not isinstance(parameter, str | int | float | bool):
            raise BadInput(f"parameter {name[:80]!r} must be a string, a number or true or false", where=where)
        parameters[name] = parameter
    return parameters


def _flag(parameters: dict[str, Parameter], name: str, where: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise BadInput(f"{name} must be true or false", where=where)
    return value


def _one_element(view: memoryview) -> memoryview:
    """A raw BYTES request is the element itself: gives it the length that the wire form has."""
    return memoryview(view.nbytes.to_bytes(4, "little") + bytes(view))
